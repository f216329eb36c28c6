"""Who runs in each step: queue, ranks, admission, the step's time budget, preemption, and what results mean."""

from penstock.sched.cost import StepCost, StepFeatures
from penstock.sched.decision import decision_hash
from penstock.sched.roster import Preemption
from penstock.sched.scheduler import Scheduler

__all__ = ["Preemption", "Scheduler", "StepCost", "StepFeatures", "decision_hash"]
