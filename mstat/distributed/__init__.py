"""Several processes as one: the engine over Accelerate and DeepSpeed, the gather, and ranks that are lost.

Whatever knows a rank, a collective or a launcher belongs here. What is computed, trained or scored does not.
"""
