"""Distributed training: the engine over Accelerate and DeepSpeed, its optimiser, the gather, and lost ranks.

Code that starts, joins or stops the processes of a run belongs here. What they compute, train or score does not.
"""
