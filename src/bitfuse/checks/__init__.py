"""The conformance suite: what every hashing method must do, ours or a third party's. It needs no test framework.

    from bitfuse.checks import check_hasher
    check_hasher(MyHasher)

Under pytest, `@pytest.mark.parametrize("check", checks(), ids=lambda c: c.name)` and `check(MyHasher)` report each
check on its own. A method with a parameter `epochs` gets two of them where the quality of its codes does not matter.
"""

from __future__ import annotations

import inspect
import warnings
from collections.abc import Callable
from dataclasses import dataclass

from bitfuse.checks import contract, quality, rows
from bitfuse.checks.tools import Factory
from bitfuse.data.base import Dataset
from bitfuse.errors import BitfuseWarning

__all__ = ["Check", "check_hasher", "checks"]

_CHECKS: tuple[Callable[..., None], ...] = (
    contract.constructor_only_stores,
    contract.fit_returns_self,
    contract.inputs_untouched,
    contract.refit_forgets,
    contract.same_seed_same_codes,
    contract.global_random_state_untouched,
    contract.unfitted_raises,
    contract.clone_is_unfitted,
    contract.labels_needed_where_supervised,
    contract.labels_ignored_elsewhere,
    contract.save_load_fresh_process,
    rows.shapes_and_dtypes,
    rows.row_wise,
    rows.view_order_irrelevant,
    rows.missing_views,
    rows.wrong_width_rejected,
    rows.one_two_three_views,
    quality.no_dead_bits,
    quality.tiny_data_warns_and_works,
    quality.beats_lsh,
)


@dataclass(frozen=True)
class Check:
    """One thing every hasher must do.

    Attributes:
        run: a function of a hasher class or factory and, where it judges quality, a data set.
    """

    run: Callable[..., None]

    @property
    def name(self) -> str:
        """The name, as `check_hasher` lists it."""
        return self.run.__name__

    def __call__(self, make: Factory, dataset: Dataset | None = None) -> None:
        """Run it.

        Args:
            make: a hasher class, or a function of keyword parameters (`n_bits`, `seed`, ...) that makes a hasher.
            dataset: judges quality in place of the generated shapes, as the pocket backbone sees them.

        Raises:
            AssertionError: with what was expected and what was seen.
        """
        judges = "dataset" in inspect.signature(self.run).parameters
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", BitfuseWarning)
            try:
                self.run(make, dataset) if judges else self.run(make)
            except AssertionError as error:
                raise AssertionError(f"{self.name}: {error}. Expected: {inspect.getdoc(self.run)}") from error


def checks() -> list[Check]:
    """All checks, in the order in which a new method had best pass them."""
    return [Check(run) for run in _CHECKS]


def check_hasher(make: Factory, *, dataset: Dataset | None = None) -> list[str]:
    """Run every check.

    Args:
        make: a hasher class, or a function that makes a hasher from parameters.
        dataset: the checks of quality are made on it; None for the generated shapes.

    Returns:
        The names of the checks, all passed.

    Raises:
        AssertionError: of the first that failed.

    Examples:
        >>> from bitfuse.checks import checks
        >>> from bitfuse.hashers.itq import ITQ
        >>> next(check for check in checks() if check.name == "row_wise")(ITQ)
    """
    for check in checks():
        check(make, dataset)
    return [check.name for check in checks()]
