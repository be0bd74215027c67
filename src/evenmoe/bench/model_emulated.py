"""Emulated devices, end to end: each device's rows go through the whole model alone, by the code of real ranks.

How many rows each layer would get from the other devices is found out first: every device routes its tokens and says
what it would send, with experts that get nothing. Shape letters: D devices, L MoE layers, C calls (forwards of one
pass), S slots (expert copies, device by device).
"""

from __future__ import annotations

import copy
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from statistics import median

import torch
from torch import Tensor, nn

from evenmoe import attach
from evenmoe.bench.emulated import Link, side_by_side
from evenmoe.bench.job import OnProgress, Setting
from evenmoe.bench.model_job import ModelJob
from evenmoe.bench.model_pass import CallCounts, Forward, ModelClock
from evenmoe.bench.model_random import RandomModel, random_weights
from evenmoe.bench.model_routers import RouterOutput, Routers, rows_of
from evenmoe.bench.model_timed import CallTimes, TimedSetting
from evenmoe.bench.model_traffic import QueuedGroup, Traffic
from evenmoe.bench.phases import Clock, PhaseRecorder, median_record
from evenmoe.models.attached import Attached
from evenmoe.models.sites import find_sites
from evenmoe.parallel import ExpertParallel, shard
from evenmoe.placement import Placement

Answers = list[list[RouterOutput]]
"""[C][L]: what the routers say about the tokens of all devices."""

COMPOSITION = (
    "each device's rows ran through the model alone on this machine; a forward = the median device's time outside the "
    "MoE blocks + for each MoE block the slowest device's stretches and the computed exchanges"
)


@dataclass(frozen=True, eq=False)
class _Device:
    """One emulated device: the model with its experts, what its routers are to say, and its clock."""

    model: nn.Module
    group: QueuedGroup
    parallel: ExpertParallel
    routers: Routers
    clock: ModelClock
    ids_BS: Tensor

    @contextmanager
    def attached(self, job: ModelJob, setting: Setting) -> Iterator[Attached]:
        self.routers.give(None)  # attaching asks the routers themselves
        with attach(
            self.model,
            setting.policy,
            parallel=self.parallel,
            min_tokens=job.min_tokens,
            seed=job.seed,
            pad_token_id=-1,
        ) as attached:
            yield attached

    def run(self, job: ModelJob, answers: Answers, counted: CallCounts | None = None) -> list[Forward]:
        """Run one pass; the routers say what they are to say about this device's tokens."""

        def before_call(call: int) -> None:
            self.routers.give(rows_of(answers[call], job.tokens_of(self.group.rank, call)))
            if counted is not None:
                counted.call = call

        return self.clock.run(self.ids_BS, job.num_prompt, before_call)


def run_model_emulated(
    job: ModelJob,
    link: Link,
    *,
    clock: Clock = time.perf_counter_ns,
    on_progress: OnProgress | None = None,
) -> tuple[list[TimedSetting], Placement]:
    """Run every device's part of every setting; return what each setting took and where the experts were.

    A forward is composed as COMPOSITION says. What stands for all passes is composed of the medians over passes.
    clock: nanoseconds of wall time, or of this process's CPU time, which a busy machine disturbs less.
    """
    model = job.source.build()
    devices = _devices(job, model, clock)
    total = (job.repeats + 2) * len(job.settings)
    answers = _answers(job, model)
    counts = [
        [CallCounts(job.num_calls, device.parallel.num_experts_L) for device in devices] for _ in job.settings
    ]
    traffic = []
    for index, setting in enumerate(job.settings):
        if on_progress is not None:
            on_progress(f"{setting.label}: routing", index, total)
        traffic.append(_listen(job, setting, devices, answers[index], counts[index]))
    passes: list[list[list[list[Forward]]]] = [[] for _ in job.settings]  # [setting][pass][D][C]
    for step in range(job.repeats + 1):
        for index, setting in enumerate(job.settings):
            if on_progress is not None:
                on_progress(setting.label, (step + 1) * len(job.settings) + index, total)
            passes[index].append(
                [_timed(job, setting, device, answers[index], traffic[index]) for device in devices]
            )
    placement = devices[0].parallel.placement
    timed = []
    for index in range(len(job.settings)):
        composed = [_compose(forwards, traffic[index], link) for forwards in _with_medians(passes[index][1:])]
        timed.append(TimedSetting(passes=composed[1:], shown=composed[0], counts_D=counts[index]))
    return timed, placement


def _listen(
    job: ModelJob,
    setting: Setting,
    devices: Sequence[_Device],
    answers: Answers,
    counts_D: Sequence[CallCounts],
) -> Traffic:
    for device, counted in zip(devices, counts_D, strict=True):
        device.group.listen()
        with device.attached(job, setting) as attached, attached.observed(counted):
            device.run(job, answers, counted)
    placement = devices[0].parallel.placement
    parameter = next(p for p in devices[0].model.parameters() if p.is_floating_point())
    hidden = int(getattr(devices[0].model.config, "hidden_size"))  # noqa: B009
    return Traffic(
        sent=[device.group.sent for device in devices],
        slots_LD=[placement.holds(layer).sum(1).tolist() for layer in range(placement.num_layers)],
        pair_bytes=hidden * parameter.element_size(),
    )


def _timed(
    job: ModelJob, setting: Setting, device: _Device, answers: Answers, traffic: Traffic
) -> list[Forward]:
    device.group.sent = traffic.sent[device.group.rank]
    device.group.expect_calls(traffic.arriving(device.group.rank))
    with device.attached(job, setting) as attached, attached.timed(device.clock.recorder):
        return device.run(job, answers)


def _with_medians(passes: Sequence[list[list[Forward]]]) -> list[list[list[Forward]]]:
    """Return the passes [pass][D][C], with one in front that is made of the median of every stretch."""
    middle = []
    for forwards in zip(*passes, strict=True):  # of one device, by pass
        middle.append([_median_forward(same) for same in zip(*forwards, strict=True)])
    return [middle, *passes]


def _median_forward(forwards: Sequence[Forward]) -> Forward:
    records = tuple(
        median_record(same) for same in zip(*(forward.records for forward in forwards), strict=True)
    )
    outside_ns = round(median(forward.outside_ns for forward in forwards))
    wall_ns = outside_ns + sum(record.wall_ns for record in records)
    return replace(forwards[0], wall_ns=wall_ns, records=records)


def _compose(forwards_DC: Sequence[list[Forward]], traffic: Traffic, link: Link) -> list[CallTimes]:
    """Put the devices of one pass side by side, forward by forward."""
    calls = []
    for call, forwards_D in enumerate(zip(*forwards_DC, strict=True)):
        layers = [
            side_by_side(
                [forward.records[layer] for forward in forwards_D], *traffic.exchange_ns(call, layer, link)
            )
            for layer in range(len(traffic.slots_LD))
        ]
        outside_ns = round(median(forward.outside_ns for forward in forwards_D))
        moe_ns = sum(records_D[0].wall_ns for records_D in layers)
        calls.append(CallTimes(total_ns=outside_ns + moe_ns, records_LD=layers))
    return calls


def _answers(job: ModelJob, model: nn.Module) -> list[Answers]:
    """Return [setting][C][L]: drawn, or what the model's own routers say under each setting, all devices virtual."""
    if isinstance(job.source, RandomModel):
        return [job.source.answers(model, job.num_tokens_C)] * len(job.settings)
    routers = Routers(model)
    clock = ModelClock(model, PhaseRecorder(), lambda: None)
    said = []
    for setting in job.settings:
        with attach(
            model,
            setting.policy,
            num_devices=job.num_devices,
            placement=job.placement,
            min_tokens=job.min_tokens,
            seed=job.seed,
            pad_token_id=-1,
        ):
            routers.listen()
            clock.run(job.ids_BS, job.num_prompt, lambda _call: None)
            heard = routers.heard()
        layers = len(heard) // job.num_calls
        said.append([heard[call * layers : (call + 1) * layers] for call in range(job.num_calls)])
    return said


def _devices(job: ModelJob, model: nn.Module, read_ns: Clock) -> list[_Device]:
    """Build the devices. All share what is not experts; those of a random model also share one set of experts."""
    devices = []
    bank: list[dict[str, Tensor]] = []
    for rank in range(job.num_devices):
        shared = {id(tensor): tensor for tensor in (*model.parameters(), *model.buffers())}
        own = copy.deepcopy(model, shared)
        group = QueuedGroup(rank, job.num_devices)
        routers = Routers(own)
        parallel = shard(own, group, placement=job.placement)
        if isinstance(job.source, RandomModel):
            bank = bank or _bank(job, own, parallel.placement)
            _take_experts(own, bank)
        clock = ModelClock(own, PhaseRecorder(rank=rank, clock=read_ns), lambda: None, read_ns)
        devices.append(_Device(own, group, parallel, routers, clock, job.ids_BS[job.rows_of(rank)]))
    return devices


def _bank(job: ModelJob, model: nn.Module, placement: Placement) -> list[dict[str, Tensor]]:
    """Return random experts for each layer, as many as the device that holds most."""
    generator = torch.Generator().manual_seed(job.seed)
    bank = []
    for layer, site in enumerate(find_sites(model)):
        assert site.experts is not None
        most = int(placement.holds(layer).sum(1).max())
        layer_bank = {}
        for name, parameter in site.experts.named_parameters(recurse=False):
            full = torch.empty((most, *parameter.shape[1:]), dtype=parameter.dtype)
            layer_bank[name] = random_weights(full, generator)
        bank.append(layer_bank)
    return bank


def _take_experts(model: nn.Module, bank: Sequence[dict[str, Tensor]]) -> None:
    for site, layer_bank in zip(find_sites(model), bank, strict=True):
        assert site.experts is not None
        for name, parameter in list(site.experts.named_parameters(recurse=False)):
            own = nn.Parameter(layer_bank[name][: parameter.shape[0]], requires_grad=False)
            setattr(site.experts, name, own)
