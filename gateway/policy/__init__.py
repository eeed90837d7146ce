"""What may be asked and what may be answered.

verdict     the words that every check shares
folds       what is the same to a list           alignment  when a text is an entry
trie        the entries                          scan       in pieces
matcher     at once                              wordset    lists that share a matcher
patterns    regular expressions, in pieces       personal   the shipped ones
rules       lists and patterns together: a whole text's spans, a stream's masked text
config      the policy file                      compiled   made ready          aside  in another process
engine      what the use case asks
"""
