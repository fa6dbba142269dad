"""Several processes as one: the engine over Accelerate and DeepSpeed, its optimiser, the gather, ranks that are lost.

Code that starts, joins or stops the processes of a run belongs here. What they compute, train or score does not.
"""
