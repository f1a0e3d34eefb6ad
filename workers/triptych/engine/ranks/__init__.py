"""One engine on many ranks: rank 0 plans, all compute.

rows, choices, tables, encoding   what a step is, and as bytes
telling, images                   rank 0: what of it the others have to be told
leader, leading                   rank 0: the runner of its step loop, and how it is put together
seeing, tracing                   rank 0 and the others: images dealt out, traces collected
mirror, follower                  the others: from what they are told to a step input, and to their part of the result
following                         the others, put together
computer                          every rank: its part of the step, and the choice of the tokens
settings, messages                what all ranks know, what they tell each other
joining, child, processes         ranks as child processes of an offline engine
group, readiness, replica         one generation of ranks, who of it has loaded, generation after generation
"""
