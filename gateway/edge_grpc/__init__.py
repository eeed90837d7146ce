"""KServe v2 over gRPC, in front of Triton: the same lock as the HTTP door.

door       the server: its methods, its port, its end
calls      one call: who, until when, what it is counted as, how it is refused
control    health, and what is passed on by scope alone
unary      ModelInfer
stream     ModelStreamInfer: many requests on one stream
passage    the requests of a stream that carry no text, in order and byte by byte
asking     a request's tensors into the use case's Ask, and its deltas into responses
texts      the text in anybody's tensors, for the policy
screened   text models of others: checked on the way in, guarded on the way out
messages   the wire: parsing, and what every request must look like
"""
