"""The loss that the student minimises, in pure torch without I/O.

Every loss here is a function of the student's log-probabilities log q and comes with its slope
u = dL/d(log q). Through the softmax, the gradient with respect to the logits is u - q sum(u). Adding a
multiple of q to a slope therefore changes nothing, so slopes are given without such terms.
"""
