"""Random histories of a registry, run against a model (Hypothesis' state machines)."""

import os
from collections.abc import Callable

from hypothesis import HealthCheck, settings
from hypothesis.stateful import RuleBasedStateMachine, run_state_machine_as_test

from ullage.database.transaction import Database


def run_histories(
    machine: Callable[[Database], RuleBasedStateMachine], db: Database, examples: int, steps: int
) -> None:
    """Run `examples` of up to `steps` each; with ULLAGE_EXAMPLES so many, others each time."""
    many = os.environ.get("ULLAGE_EXAMPLES")
    run_state_machine_as_test(
        lambda: machine(db),  # type: ignore[arg-type]  # a factory, says its documentation
        settings=settings(
            max_examples=int(many or examples),
            stateful_step_count=50 if many else steps,
            deadline=None,
            derandomize=not many,
            database=None,
            suppress_health_check=list(HealthCheck),
        ),
    )
