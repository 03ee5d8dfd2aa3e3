"""What is minimised: pure torch, no I/O.

Every loss here is a function of the student's log-probabilities log q and comes with its slope
u = dL/d(log q). Through the softmax the gradient with respect to the logits is u - q sum(u), so that adding
a multiple of q to a slope changes nothing: slopes are given without such terms.
"""
