"""UnitPipelineStrategy: units in several processes, with the results of one process to the last bit.

A unit's step needs the activations of the unit before it, and nothing of the units behind. So each process trains a run
of consecutive units (a stage) and sends their activations on, a few batches ahead of the next stage. Stage s works on
batch t while stage s + 1 works on batch t - 1: no unit waits for a gradient, and none is computed from stale weights.
"""

import contextlib
import warnings
from collections.abc import Iterator, Mapping
from typing import Any, Literal

import torch
from lightning.pytorch.callbacks import Timer
from lightning.pytorch.strategies import DDPStrategy
from lightning.pytorch.utilities.exceptions import SIGTERMException
from rich.console import Console
from torch import Tensor
from torch.optim import Optimizer

from intff_lightning.errors import ConfigurationError, IntFFError, PipelineError, explain
from intff_lightning.lightning_compat import leave_processes_alone, take_sigterm
from intff_lightning.module import IntFFModule
from intff_lightning.pipeline.channel import Channel, connected
from intff_lightning.pipeline.checks import check_module, check_stages
from intff_lightning.pipeline.layout import Exchange, Layout
from intff_lightning.pipeline.partition import balance, given, measure, stage_table, unit_names
from intff_lightning.pipeline.stage import DRAWN, STOP, TIME_IS_UP, PipelineStage
from intff_lightning.pipeline.watch import Watch, open_store
from intff_lightning.pipeline.weights import return_units, show_first_layer, whole_state
from intff_lightning.randomness import random_state, restore_random_state


class UnitPipelineStrategy(DDPStrategy):
    """Trains runs of consecutive units in processes of their own: ``Trainer(strategy="unit_pipeline", devices=2)``.

    Weights, optimizer states and metrics equal those of one process. Checkpoints are those of one process too, and
    resume on any number of stages. If units draw random numbers (dropout), the draws of a unit depend on the seed, the
    batch and the unit: they are the same for any number of stages, and differ from those of another strategy.

    Each process reads the same batches. Processes beyond the stages make replicas of the network, which share the data
    as with DDP; the gradients of a unit are averaged over its replicas.

    The goodness and losses of all units are known in the last stage, which is rank 0: metrics, tables and predictions
    come from there. ``Trainer.predict`` returns NaN in the other processes.

    It runs on CPUs (gloo). On several GPUs (NCCL) it is untested.

    Args:
        stages: Number of units of each stage, for example ``[2, 1, 1]``, or the number of stages; they are then
            balanced by the measured time of a step of each unit. ``None`` makes as many as there are processes.
        replicas: Number of replicas; ``rest`` makes as many as the processes allow.
        timeout: Seconds that a unit may take for one batch, unless ten times its longest step so far is more. After
            that, the pipeline counts as hanging and ends with an error.
        **options: Options of Lightning's ``DDPStrategy`` for its processes, such as ``process_group_backend``.

    Raises:
        ConfigurationError: The network or the number of processes does not allow it.
        PipelineError: A process failed, hangs or was lost.
    """

    def __init__(
        self,
        stages: int | list[int] | None = None,
        replicas: int | Literal["rest"] = "rest",
        timeout: float = 20.0,
        **options: Any,
    ) -> None:
        super().__init__(**options)
        self.wanted, self.wanted_replicas, self.unit_timeout = stages, replicas, timeout
        self.stages: list[range] = []
        """Units of every stage, known when the strategy is set up."""
        self.stage: PipelineStage | None = None
        self.watch: Watch | None = None
        self._exchange: Exchange | None = None
        self._store: Any = None
        self._runs = 0
        self._timers: list[Timer] = []
        self._warned = self._stops = self._sigterm = self._failed = False

    # ---------------------------------------------------------------- processes

    @property
    def processes(self) -> int:
        """Number of processes."""
        return self.num_nodes * self.num_processes

    @property
    def world_size(self) -> int:
        """1: Lightning takes this for one process; otherwise, it would synchronize all stages in every batch."""
        return 1

    @property
    def layout(self) -> Layout:
        """Stages and replicas."""
        return Layout.of(self.wanted, self.wanted_replicas, self.processes)

    @property
    def distributed_sampler_kwargs(self) -> dict[str, Any]:
        return {"num_replicas": self.layout.replicas, "rank": self.layout.place(self.global_rank)[1]}

    @property
    def exchange(self) -> Exchange:
        """Exchanges among all processes, once they are started."""
        assert self._exchange is not None
        return self._exchange

    @property
    def _module(self) -> IntFFModule:
        assert isinstance(self.lightning_module, IntFFModule)
        return self.lightning_module

    def describe(self, rank: int, unit: int | None = None) -> str:
        """Name a process by its stage, and by the unit that it was in or all of its units."""
        stage, replica = self.layout.place(rank)
        of_replica = f" of replica {replica}" if self.layout.replicas > 1 else ""
        units = f"unit_{unit}" if unit is not None else unit_names(self.stages[stage]) if self.stages else ""
        return f"stage {stage}{of_replica} of the pipeline" + (f" ({units})" if units else "")

    def setup_environment(self) -> None:
        """Start the processes, and the watch over them."""
        layout, state = self.layout, random_state()
        super().setup_environment()
        restore_random_state([state], 0, 1)  # Lightning has seeded anew, as it does not for one process
        if self._exchange is None:
            host = self.cluster_environment.main_address if self.cluster_environment is not None else "127.0.0.1"
            held = open_store(host, 0, self.processes, holds=True) if self.global_rank == 0 else None
            port = self.broadcast(None if held is None else held.port)
            self._store = held or open_store(host, port, self.processes, holds=False)
            self._exchange = Exchange(layout, self.global_rank, self._explain_loss)
        self._runs += 1
        self._stops = self._sigterm = self._failed = False
        self.watch = Watch(
            self._store, str(self._runs), self.global_rank, self.processes, self.describe, self.unit_timeout
        )
        self.barrier()
        self.watch.start()
        leave_processes_alone(self.launcher)  # now that the watch is over them
        check_module(self.lightning_module, self.precision_plugin)

    # ---------------------------------------------------------------- setup

    def setup(self, trainer: Any) -> None:
        """Divide the units among the processes, and give up those of the others."""
        assert self.accelerator is not None
        self.accelerator.setup(trainer)
        self.precision_plugin.convert_module(self._module)
        self._divide(prints=trainer.state.fn == "fit")
        self._share_random_state()
        self._enter()
        self.model_to_device()
        if trainer.state.fn == "fit":
            self.setup_optimizers(trainer)
        self.setup_precision_plugin()
        self._timers = [callback for callback in trainer.callbacks if isinstance(callback, Timer)]
        for timer in self._timers:  # the first stage watches the time: a Timer would have all wait for it every batch
            timer.on_train_batch_end = lambda *_: None  # type: ignore[method-assign]

    def _divide(self, prints: bool) -> None:
        module, count = self._module, self.layout.stages
        units, costs = len(module.units), None
        if count > units:
            raise ConfigurationError(
                f"unit_pipeline: {count} stages for {units} units; a stage needs one unit or more. Use fewer devices."
            )
        if isinstance(self.wanted, list):
            self.stages = given(self.wanted, units)
        elif not self.stages or self.stages[-1][-1] != units - 1:
            if count > 1 and self.is_global_zero:
                costs = measure(module, self.root_device, self.precision_plugin.forward_context)
            self.stages = super().broadcast(balance(costs or [1.0] * units, count))
        check_stages(module, self.stages)
        if prints and self.is_global_zero:
            Console().print(stage_table(module, self.stages, costs, self.layout.replicas))

    def _share_random_state(self) -> None:
        """Have all processes of a replica draw alike: they must augment the same batches in the same way."""
        _, replica = self.layout.place(self.global_rank)
        states = [self.broadcast(random_state(), reporter) for reporter in self.layout.reporters]
        restore_random_state(states, replica, len(states))

    def _enter(self) -> None:
        """Take a stage: connect it, and move the units of others to the meta device, where they take no memory."""
        assert self.watch is not None
        layout, exchange, device = self.layout, self.exchange, self.root_device
        number, replica = layout.place(self.global_rank)
        last = number == layout.stages - 1

        def connect(number: int) -> Channel:
            return Channel(layout.rank(number, replica), exchange.messages, device, self._explain_loss)

        before, after = connect(number - 1) if number else None, None if last else connect(number + 1)
        self.stage = PipelineStage(number, self.stages[number], before, after, exchange.replicas)
        self._module.stage = self.watch.stage = self.stage
        for k, unit in enumerate(self._module.units):
            if k not in self.stage.units:
                unit.to("meta")

    def model_to_device(self) -> None:
        """Move what this process holds to its device."""
        assert self.stage is not None
        self._module.encoder.to(self.root_device)
        for k in self.stage.units:
            self._module.units[k].to(self.root_device)

    def teardown(self) -> None:
        """Give every process the whole network back, on the CPU; after a failure, only what it holds."""
        if self.stage is not None and not self._failed:
            self.stage.at(None)
            if self.stage.before is not None:
                self.stage.before.end_receiving()
            if self.stage.after is not None:
                self.stage.after.end_sending()
            return_units(self._module, self.stages, self.exchange)
            self.barrier()
        if self.watch is not None and not self._failed:
            self.watch.end()
            self.watch = None
        if self.stage is not None:
            self._module.stage = self.stage = None
        for timer in self._timers:
            del timer.on_train_batch_end
        self._timers = []
        if not self._failed:  # otherwise, the process ends: Lightning would move the units of others to the CPU
            super().teardown()

    # ---------------------------------------------------------------- steps

    def training_step(self, batch: Any, batch_idx: int, *args: Any) -> Any:
        """Train the units of this process on one batch."""
        stage, module = self.stage, self._module
        assert stage is not None
        if stage.first:
            stage.flag = self.exchange.agreed_flags(self._flags())
        cuda = [self.root_device] if self.root_device.type == "cuda" else []
        with torch.random.fork_rng(cuda), self._named_errors():
            # units draw for themselves: other draws, such as those of an augmentation, must stay equal in all processes
            replica = self.layout.place(self.global_rank)[1]
            stage.draws = torch.initial_seed(), module.current_epoch, batch_idx, replica
            output = super().training_step(batch, batch_idx, *args)
            stage.draws = None
        if stage.flag & TIME_IS_UP:
            module.trainer.should_stop = True
        if stage.flag & DRAWN and self.is_global_zero and not self._warned:
            self._warned = True
            warnings.warn(
                "unit_pipeline: units draw random numbers (dropout). They draw alike for any number of stages, but not "
                "as with other strategies.",
                stacklevel=2,
            )
        return output

    def validation_step(self, *args: Any, **kwargs: Any) -> Any:
        with self._named_errors():
            return super().validation_step(*args, **kwargs)

    def test_step(self, *args: Any, **kwargs: Any) -> Any:
        with self._named_errors():
            return super().test_step(*args, **kwargs)

    def predict_step(self, *args: Any, **kwargs: Any) -> Any:
        """Return scores in the last stage, and NaN in the others, which do not know all units."""
        assert self.stage is not None
        with self._named_errors():
            scores: Any = super().predict_step(*args, **kwargs)
        return scores if self.stage.last else torch.full_like(scores, torch.nan)

    @contextlib.contextmanager
    def _named_errors(self) -> Iterator[None]:
        """Name the stage and the unit in errors."""
        assert self.stage is not None
        try:
            yield
            self.stage.at(None)
        except PipelineError:
            raise
        except IntFFError as error:
            raise type(error)(f"stage {self.stage.number}: {error}") from error
        except Exception as error:
            where = self.describe(self.global_rank, self.stage.unit)
            raise PipelineError(f"{where} failed: {type(error).__name__}: {explain(error)}") from error

    # ---------------------------------------------------------------- exchanges

    def barrier(self, *args: Any, **kwargs: Any) -> None:
        with connected(self._explain_loss):
            super().barrier(*args, **kwargs)

    def broadcast(self, obj: Any, src: int = 0) -> Any:
        with connected(self._explain_loss):
            return super().broadcast(obj, src)

    def reduce(self, tensor: Any, group: Any = None, reduce_op: Any = "mean") -> Any:
        """Reduce over the last stages of the replicas, which know all units, and give the result to all processes."""
        if not isinstance(tensor, Tensor) or self._exchange is None:
            return tensor
        replicas, (stage, _) = self._exchange.replicas, self.layout.place(self.global_rank)
        if replicas is not None and stage == self.layout.stages - 1:
            with connected(self._explain_loss):
                tensor = super().reduce(tensor.detach().clone().contiguous(), replicas.group, reduce_op)
        return self.exchange.broadcast(tensor, 0)

    def all_gather(self, tensor: Tensor, group: Any = None, sync_grads: bool = False) -> Tensor:
        """Gather from the last stages of the replicas, ``(replicas, *)``, and give the result to all processes."""
        return torch.stack([self.exchange.broadcast(tensor, reporter) for reporter in self.layout.reporters])

    def reduce_boolean_decision(self, decision: bool, all: bool = True) -> bool:
        """Tell whether all processes, or any of them, decide so."""
        return self.exchange.count(decision) >= (self.processes if all else 1)

    # ---------------------------------------------------------------- stopping

    def _flags(self) -> int:
        """Return the flags of the next batch, as far as this process knows. The first stage asks."""
        assert self.watch is not None
        remaining = [timer.time_remaining() for timer in self._timers]
        late = any(seconds is not None and seconds <= 0 for seconds in remaining)
        return (STOP if self.watch.stop_asked else 0) | (TIME_IS_UP if late else 0)

    def note_stop(self, asked: bool) -> None:
        """Pass on to the first stage that this process was asked to stop, by Ctrl-C or by SIGTERM."""
        assert self.watch is not None
        self._sigterm |= take_sigterm(self._module.trainer)  # Lightning would stop this process alone
        if asked or self._sigterm:
            self.watch.ask_for_stop()

    def agreed_stop(self, asked: bool, after_batch: bool) -> type[BaseException] | None:
        """Return what stops all processes now, a Ctrl-C or a SIGTERM, or ``None``.

        Args:
            asked: This process was asked to stop by Ctrl-C.
            after_batch: A training batch has ended. The first stage has decided before it, so that nobody waits.
        """
        assert self.stage is not None
        self.note_stop(asked)
        if after_batch:
            self._stops = bool(self.stage.flag & STOP)
        else:
            self._stops = self.reduce_boolean_decision(asked or self._sigterm, all=False)
        if not self._stops:
            return None
        return SIGTERMException if self.reduce_boolean_decision(self._sigterm, all=False) else KeyboardInterrupt

    # ---------------------------------------------------------------- checkpoints

    def lightning_module_state_dict(self) -> dict[str, Any]:
        """Return the state of the whole network in rank 0; the others lack the values of other processes' units."""
        return whole_state(self._module, self.stages, self.exchange)

    def optimizer_state(self, optimizer: Optimizer) -> dict[str, Any]:
        """Return the state of the optimizer of a unit in rank 0, wherever the unit is."""
        k = next(k for k, own in enumerate(self.optimizers) if own is optimizer)
        number = next(number for number, units in enumerate(self.stages) if k in units)
        state: dict[str, Any] = super().optimizer_state(optimizer)
        return dict(self.exchange.send_to_reporter(state, self.layout.rank(number)))

    def load_optimizer_state_dict(self, checkpoint: Mapping[str, Any]) -> None:
        """Load the states of the optimizers of this process; of the others, the options alone."""
        assert self.stage is not None
        states = [
            state if k in self.stage.units else {**state, "state": {}}
            for k, state in enumerate(checkpoint["optimizer_states"])
        ]
        super().load_optimizer_state_dict({"optimizer_states": states})

    # ---------------------------------------------------------------- evaluation

    def on_validation_start(self) -> None:
        show_first_layer(self._module, self.exchange)

    def on_test_start(self) -> None:
        show_first_layer(self._module, self.exchange)

    def on_predict_start(self) -> None:
        show_first_layer(self._module, self.exchange)

    # ---------------------------------------------------------------- failures

    def _explain_loss(self) -> str:
        """Say which process was lost, unless another one has said it already."""
        rank = None if self.watch is None else self.watch.wait_for_loss()
        if self.watch is None or rank is None:
            return "the connection between two processes of the pipeline broke."
        return self.watch.loss(rank)

    def on_exception(self, exception: BaseException) -> None:
        """Let the first process that fails speak, and end the others."""
        if self.watch is None or (isinstance(exception, KeyboardInterrupt | SIGTERMException) and self._stops):
            return
        self._failed = True
        if not self.watch.claim(type(exception).__name__):
            self.watch.leave()
        self.watch.wait_for_others()
