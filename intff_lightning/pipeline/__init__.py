"""Units in several processes: a pipeline with the results of one process, see :class:`UnitPipelineStrategy`.

Reading order: ``channel`` (messages), ``stage`` (the units of a process), ``partition`` (which units these are),
``layout`` (which process it is), ``weights`` (of all processes), ``watch`` (failures), ``strategy`` (what
Lightning calls).
"""

from intff_lightning.pipeline.strategy import UnitPipelineStrategy

__all__ = ["UnitPipelineStrategy"]
