"""Simulation: requests queue, are scheduled and run on a simulated machine, on SimPy. numpy, no torch."""

from evenmoe.simulation.continuous import Continuous
from evenmoe.simulation.cv import CvExecution
from evenmoe.simulation.dropping import DROP_POLICIES, Dropping
from evenmoe.simulation.execution import Execution, StepCost
from evenmoe.simulation.layer_costs import FormulaCosts, LayerCosts, MachineCosts
from evenmoe.simulation.metrics import RunMetrics
from evenmoe.simulation.request import Request, Workload
from evenmoe.simulation.simulate import simulate
from evenmoe.simulation.static import Static
from evenmoe.simulation.straggler import StragglerExecution
from evenmoe.simulation.workloads.arrivals import Bursty, Poisson, Replayed
from evenmoe.simulation.workloads.lengths import Fixed, Geometric, LogNormal, RequestLengths, Uniform
from evenmoe.simulation.workloads.load_sources import DomainLoadsSource, PromptLoads, SyntheticTopics
from evenmoe.simulation.workloads.traces import Trace, read_trace
from evenmoe.simulation.workloads.workload import SimulatedWorkload

__all__ = [
    "DROP_POLICIES",
    "Bursty",
    "Continuous",
    "CvExecution",
    "DomainLoadsSource",
    "Dropping",
    "Execution",
    "Fixed",
    "FormulaCosts",
    "Geometric",
    "LayerCosts",
    "LogNormal",
    "MachineCosts",
    "Poisson",
    "PromptLoads",
    "Replayed",
    "Request",
    "RequestLengths",
    "RunMetrics",
    "SimulatedWorkload",
    "Static",
    "StepCost",
    "StragglerExecution",
    "SyntheticTopics",
    "Trace",
    "Uniform",
    "Workload",
    "read_trace",
    "simulate",
]
