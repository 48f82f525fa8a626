"""The evaluation as data: every choice that changes a number, with a name, printed beside the number."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Any, Literal, get_args

from bitfuse.errors import InputError, UnknownName
from bitfuse.metrics import DIVISORS, EMPTY, TIES, Divisor, Empty, Ties

TieRule = Ties | Literal["row order"]
Stance = Literal["either", "all", "none"]

TIE_RULES: tuple[str, ...] = (*TIES, "row order")
STANCES: tuple[str, ...] = get_args(Stance)

OPEN_LABELS = "as the data set gives them"
"""The label variant of a protocol that leaves it to the data set, whose notes name it."""

_DIVIDED = {
    "R": "divided by all relevant items",
    "min(R,K)": "divided by min(R, K)",
    "hits": "divided by the relevant items within the top K",
    "first-K-relevant": "averaged over the first K relevant items, wherever they stand",
}
_TIED = {
    "expectation": "items at the same distance count by their expectation over all orders",
    "optimistic": "items at the same distance stand in the best order (the largest value that any order attains)",
    "pessimistic": "items at the same distance stand in the worst order (the smallest value that any order attains)",
    "row order": "items at the same distance stand in the order of the gallery's rows",
}
_STANCE = {
    "either": "training items may be in the gallery or not",
    "all": "the training items are part of the gallery",
    "none": "no training item is in the gallery",
}


@dataclass(frozen=True, kw_only=True)
class Protocol:
    """How codes are judged.

    Attributes:
        name: of the preset, or of your own variant.
        k: ranks that count; None is the whole gallery, where all divisors agree.
        divisor: of AP@K: `"R"`, `"min(R,K)"`, `"hits"` or `"first-K-relevant"` (`bitfuse.metrics`).
        ties: `"expectation"`, `"optimistic"`, `"pessimistic"` or `"row order"`.
        empty: a query without a relevant item in the gallery is left out (`"omit"`) or counts as 0 (`"zero"`).
        empty_ball: the same choice for precision within a radius that holds no item.
        relevance: what makes an item relevant.
        spaces: the query modes that the protocol reports, in words.
        train_in_gallery: `"either"`, `"all"` or `"none"`; `evaluate` warns where the data says otherwise.
        selection: what models and epochs were chosen on.
        split: how train, query and gallery were drawn.
        seeds: of the splits and of training; a table gives their mean and standard deviation.
        label_variant: which labels of the data set; `evaluate` warns where its notes name none of these.
        notes: what the source leaves open, and what stands here instead.

    Raises:
        UnknownName: a divisor, tie rule, rule or stance of another name.
        InputError: `k` below 1.

    Examples:
        >>> Protocol.of("ucmfh2023").k
        50
        >>> print(Protocol(name="top 10", k=10, divisor="min(R,K)").describe().split(":")[0])
        Protocol 'top 10'
    """

    name: str = "strict"
    k: int | None = None
    divisor: Divisor = "R"
    ties: TieRule = "expectation"
    empty: Empty = "omit"
    empty_ball: Empty = "zero"
    relevance: Literal["shares a label"] = "shares a label"
    spaces: str = "every query mode that the method answers; the gallery with all its views"
    train_in_gallery: Stance = "either"
    selection: str = "a part of the training set"
    split: str = "as the data set gives it, queries disjoint from gallery and train"
    seeds: tuple[int, ...] = (0, 1, 2)
    label_variant: str = OPEN_LABELS
    notes: str = ""

    def __post_init__(self) -> None:
        for kind, value, known in (
            ("divisor", self.divisor, DIVISORS),
            ("tie rule", self.ties, TIE_RULES),
            ("rule for empty queries", self.empty, EMPTY),
            ("rule for empty balls", self.empty_ball, EMPTY),
            ("stance on train in gallery", self.train_in_gallery, STANCES),
        ):
            if value not in known:
                raise UnknownName(kind, value, known)
        if self.k is not None and self.k < 1:
            raise InputError(f"K of a protocol must be at least 1, or None for the whole gallery; got {self.k}")

    @staticmethod
    def of(protocol: str | Protocol) -> Protocol:
        """A preset by name; a protocol is returned as it is.

        Raises:
            UnknownName: no such preset; the message suggests the nearest name.
        """
        if isinstance(protocol, Protocol):
            return protocol
        if not isinstance(protocol, str) or protocol not in PRESETS:
            raise UnknownName("protocol", protocol, PRESETS)
        return PRESETS[protocol]

    @property
    def metric(self) -> str:
        """`"mAP"`, or `"mAP@K"`: what the table calls the number."""
        return "mAP" if self.k is None else f"mAP@{self.k}"

    def describe(self) -> str:
        """One paragraph that stands beside every number made under this protocol."""
        depth = "over the whole gallery" if self.k is None else f"over the first {self.k}, {_DIVIDED[self.divisor]}"
        if self.divisor == "first-K-relevant" and self.k is not None:
            depth = _DIVIDED[self.divisor].replace("first K", f"first {self.k}")
        empty = "are left out and counted" if self.empty == "omit" else "count as 0"
        ball = "is left out" if self.empty_ball == "omit" else "counts as precision 0"
        seeds = ", ".join(map(str, self.seeds))
        text = (
            f"Protocol {self.name!r}: {self.metric} {depth}; an item is relevant when it {self.relevance}; "
            f"{_TIED[self.ties]}; queries without a relevant item {empty}; "
            f"an empty Hamming ball {ball}. Query modes: {self.spaces}. Split: {self.split}; "
            f"{_STANCE[self.train_in_gallery]}; models chosen on {self.selection}; labels {self.label_variant}; "
            f"seeds {seeds}."
        )
        return text + (f" {self.notes}" if self.notes else "")

    def to_dict(self) -> dict[str, Any]:
        """All choices by name, ready for JSON."""
        return {**dataclasses.asdict(self), "seeds": list(self.seeds)}


PRESETS: dict[str, Protocol] = {
    p.name: p
    for p in (
        Protocol(),
        Protocol(
            name="clipmh2023",
            train_in_gallery="all",
            spaces="one fused code of image and text, for queries and gallery",
            selection="nothing that the paper names",
            split="100 positives drawn for each class, their union is the query set; the rest is the gallery; the "
            "training set is drawn from the gallery",
            label_variant="24 labels (MIR-Flickr25K), 21 concepts (NUS-WIDE), 80 categories (MS COCO)",
            notes="The paper (arXiv 2308.11797) publishes neither its seed nor its rules for ties and empty queries: "
            "the expectation stands for the first, and its split leaves no query empty.",
        ),
        Protocol(
            name="ucmfh2023",
            k=50,
            divisor="hits",
            empty="zero",
            spaces="image to text and text to image; both codes of a row are made from both of its views",
            selection="nothing: the last epoch, while test scores are printed every tenth",
            split="as the authors' feature files give it; the first 4,992 training pairs; incomplete last batches of "
            "queries and gallery dropped",
            seeds=(2023,),
            notes="The authors' evaluator sorts with an unstable argsort, so its order of ties is open; the "
            "expectation over all orders stands for it. Here no batch is dropped, no code reads the row's other view, "
            "and no row attends to its batch: each of the three changes the number.",
        ),
    )
}
