"""KServe v2 over gRPC, in front of Triton: the same lock as the HTTP door.

door, opening   the server: its methods, its port, its end; put together from parts
calls           one call: who, until when, what it is counted as, how it is refused
control         health, and what is passed on by scope alone
intake          what every infer request goes through; incoming: one that may be asked
unary           ModelInfer
stream          ModelStreamInfer: many requests on one stream
asking          our generation models: tensors into the use case's Ask, its deltas into responses
screened        text models of others: checked on the way in, guarded on the way out (texts: where their text is)
passage         requests of a stream that carry no text, in order and byte by byte
messages        the wire: parsing, and what every request must look like
credentials     the certificate
"""
