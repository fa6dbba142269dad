"""Distributed training: the engine over Accelerate and DeepSpeed, the gather, and the detection of lost ranks.

Code that knows ranks, collectives or launchers belongs here; models, training and scores do not.
"""
