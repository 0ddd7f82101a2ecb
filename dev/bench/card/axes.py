"""The card's tables: shares and means of all cells of a model, each with n and a 95 % interval."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean, stdev

from unguide.unguide_ops.metrics.tables import overall

from dev.bench.attacks import FOREIGN, MISSPELT
from dev.bench.card import prompts as parts
from dev.bench.card.seeing import shares
from dev.bench.card.ways import BASE, EXCHANGED, LABELS, NAG_WAY, NEGATIVE, OURS, REPLACE, SWAP
from dev.bench.gate_scores import auc

Z = 1.96  # of a 95 % interval
DRAWS_IT = 0.5  # share of a prompt's base pictures in which the class is seen, from which a way is judged on it
AT_FALSE_ALARMS = 0.01
FORGET = (parts.NAME, parts.SYNONYM, parts.UNSEEN, parts.VARIANT, parts.SHORT, parts.LONG, MISSPELT, FOREIGN)
KEEP = (parts.OTHER, parts.NEIGHBOUR)
ACCURACY_PARTS = {parts.NAME: "erased", parts.OTHER: "other", parts.SYNONYM: "synonym"}
"""A part of the card -> that of a reading in `metrics.tables`."""
INSTEAD = ("recognised", "unsure", "saturation", "clipped")
Row = Mapping
"""A prompt's pictures by a way: see `cells.row_of`."""


@dataclass(frozen=True)
class Measured:
    """A mean over n pictures with its 95 % interval: Wilson's for shares, the normal one for other means.

    Pictures of one prompt are alike, so that the interval is too narrow where there are several of each.
    """

    mean: float
    low: float
    high: float
    n: int

    @classmethod
    def share(cls, values: Sequence[float]) -> Measured | None:
        """Of values that are 0, 1, or one half where the judges differ. None without any."""
        if not (n := len(values)):
            return None
        share = fmean(values)
        middle = (share + Z**2 / (2 * n)) / (1 + Z**2 / n)
        reach = Z * math.sqrt(share * (1 - share) / n + Z**2 / (4 * n**2)) / (1 + Z**2 / n)
        return cls(share, max(0.0, middle - reach), min(1.0, middle + reach), n)

    @classmethod
    def average(cls, values: Sequence[float]) -> Measured | None:
        """Of any values. None without any."""
        if not values:
            return None
        reach = Z * stdev(values) / math.sqrt(len(values)) if len(values) > 1 else math.inf
        return cls(fmean(values), fmean(values) - reach, fmean(values) + reach, len(values))

    def __str__(self) -> str:
        if not math.isfinite(self.high):
            return f"{self.mean:.2f}"
        return f"{self.mean:.2f} ({self.low:.2f}\u2013{self.high:.2f}, n = {self.n})"


def sees(row: Row, thing: str) -> list[float]:
    """Of each picture, the share of judges that see the thing."""
    return shares(row["seen"], thing)


class Card:
    """All prompt cells of a model, class -> result; see `cells.draw_prompts`."""

    def __init__(self, cells: Mapping[str, dict]):
        self.cells = cells
        self.rows = [
            {**row, "class": name}
            for name, cell in cells.items()
            for row in cell["rows"]
            if row["part"] != parts.CAPTION or row["text"] in parts.captions(name)
        ]
        self.refused = {way: why for cell in cells.values() for way, why in cell["refused"].items()}
        if self.rows_of(NAG_WAY, parts.NAME) and self._all_alike(NAG_WAY, NEGATIVE):
            self.refused[NAG_WAY] = "no effect: its pictures are the negative prompt's"
        self.base = {(row["class"], row["text"]): row for row in self.rows if row["way"] == BASE}

    def rows_of(self, way: str, *of_parts: str) -> list[dict]:
        """The rows of a way and of these parts."""
        return [row for row in self.rows if row["way"] == way and row["part"] in of_parts]

    def recognised(self, way: str, part: str) -> Measured | None:
        """The share of the part's pictures in which the judges see what the base model should draw."""
        return Measured.share([it for row in self.rows_of(way, part) if row["shows"] for it in sees(row, row["shows"])])

    def left(self, way: str, part: str) -> Measured | None:
        """The share of the part's pictures in which the class is seen, over prompts for which the base draws it."""
        rows = [row for row in self.rows_of(way, part) if self._base_draws(row, row["class"])]
        return Measured.share([it for row in rows for it in sees(row, row["class"])])

    def kept(self, way: str, *of_parts: str) -> Measured | None:
        """The share of the parts' pictures in which each judge sees what it sees in the base's of the same seed."""
        pairs = [
            zip(row["seen"], self.base[row["class"], row["text"]]["seen"], strict=True)
            for row in self.rows_of(way, *of_parts)
        ]
        return Measured.share([fmean(a == b for a, b in zip(*both, strict=True)) for rows in pairs for both in rows])

    def accuracies(self, way: str) -> dict[str, float]:
        """Acc_e, Acc_s, Acc_g and H0, means over the classes; as MACE's, on this model and by its judges."""
        readings = [
            {"class": row["class"], "part": ACCURACY_PARTS[row["part"]], "recognised": share}
            for row in self.rows_of(way, *ACCURACY_PARTS)
            for share in sees(row, row["shows"])
        ]
        by_class = overall(readings, ["class"])
        return {key: fmean(row[key] for row in by_class) for key in ("acc_e", "acc_s", "acc_g", "h0")}

    def rest(self, way: str, *of_parts: str) -> Measured | None:
        """The share of pictures that show what is said beside the class, over prompts where most of the base's do."""
        rows = [row for row in self.rows_of(way, *of_parts) if fmean(self._base_row(row)["rest_right"]) >= DRAWS_IT]
        return Measured.share([it for row in rows for it in row["rest_right"]])

    def rest_of_exchanged(self, way: str, *of_parts: str) -> float | None:
        """What is right beside the class, in units of the base model's pictures with the words exchanged by hand.

        Over prompts where most of those pictures are right.
        """
        by_hand = {(row["class"], row["text"]): fmean(row["rest_right"]) for row in self.rows_of(EXCHANGED, *of_parts)}
        rows = [
            row for row in self.rows_of(way, *of_parts) if by_hand.get((row["class"], row["text"]), 0.0) >= DRAWS_IT
        ]
        if not rows:
            return None
        right = sum(fmean(row["rest_right"]) for row in rows)
        return right / sum(by_hand[row["class"], row["text"]] for row in rows)

    def identical(self, way: str) -> Measured | None:
        """The share of unrelated pictures that are the base's, bit for bit."""
        return Measured.share([float(it) for row in self.rows_of(way, *parts.UNRELATED) for it in row["identical"]])

    def changed(self, way: str, measure: str) -> Measured | None:
        """The mean of `ssim` or `distance` to the base's picture, over unrelated pictures that are not identical."""
        rows = self.rows_of(way, *parts.UNRELATED)
        return Measured.average(
            [value for row in rows for value, same in zip(row[measure], row["identical"], strict=True) if not same]
        )

    def steered(self, *of_parts: str) -> Measured | None:
        """The share of the parts' pictures that the gate steers."""
        return Measured.share([float(it) for row in self.rows_of(OURS, *of_parts) for it in row["steered"]])

    def misses(self) -> Measured | None:
        """The share of pictures not steered, where the words name the class and the base's picture shows it."""
        missed = []
        for row in self.rows_of(OURS, *parts.NAMES):
            shown = sees(self._base_row(row), row["class"])
            missed += [1.0 - it for it, share in zip(row["steered"], shown, strict=True) if share >= DRAWS_IT]
        return Measured.share(missed)

    def false_alarms_by_word(self) -> dict[str, float]:
        """Class and prompt -> share of its pictures that are steered, of unrelated prompts with any."""
        rows = self.rows_of(OURS, *parts.UNRELATED)
        steered = {f"{row['class']}: {row['text']}": fmean(row["steered"]) for row in rows}
        return dict(sorted(((it, share) for it, share in steered.items() if share), key=lambda pair: -pair[1]))

    def gate(self) -> tuple[float, float]:
        """AUC of the pictures drawn, and the share of names missed where AT_FALSE_ALARMS of the others are false."""
        both = []
        for name in self.cells:
            rows = [row for row in self.rows_of(OURS, *parts.NAMES, *parts.UNRELATED) if row["class"] == name]
            both.append(auc_and_misses((row["part"], row["score"]) for row in rows))
        return fmean(auc for auc, _ in both), fmean(misses for _, misses in both)

    def instead(self, way: str, measure: str) -> Measured | None:
        """A measure of what is drawn under the class's name and synonyms: see `cells.what_is_drawn`."""
        values = [cell["instead"][way][measure] for cell in self.cells.values() if way in cell["instead"]]
        if measure in INSTEAD:
            together = [it for of_class in values for it in of_class]
            return (Measured.share if measure in ("recognised", "unsure") else Measured.average)(together)
        return Measured.average(values)

    def instead_of_own(self, way: str) -> float | None:
        """How often the reference is seen, in units of the base's own pictures of it; of classes where it draws it."""
        drawn = [it["instead"] for it in self.cells.values()
                 if fmean(it["instead"]["reference"]["recognised"]) >= DRAWS_IT and way in it["instead"]]  # fmt: skip
        if not drawn:
            return None
        own = sum(fmean(it["reference"]["recognised"]) for it in drawn)
        return sum(fmean(it[way]["recognised"]) for it in drawn) / own

    def pairs_missed(self) -> Measured | None:
        """The share of pictures of the class and another thing that are not steered."""
        rows = self.rows_of(OURS, parts.PAIR, parts.SECOND)
        return Measured.share([1.0 - it for row in rows for it in row["steered"]])

    def calls(self, way: str, *of_parts: str) -> float:
        """Model calls per picture, mean over the parts' prompts."""
        return fmean(row["calls"] for row in self.rows_of(way, *of_parts))

    def training(self) -> dict[str, float]:
        """Means of what training cost, over the classes."""
        costs = [cell["training"] for cell in self.cells.values() if cell["training"]]
        return (
            {key: fmean(it[key] for it in costs) for key in ("seconds", "calls", "file_mib", "erasure")}
            if costs
            else {}
        )

    def ways(self) -> list[str]:
        """All ways that apply to the model."""
        return [way for way in LABELS if way not in self.refused]

    def figures(self, model: str) -> dict[str, float]:
        """The headline figures."""
        by_way = {way: self.accuracies(way) for way in self.ways()}
        top1 = [row for row in self.rows_of(BASE, parts.NAME, parts.OTHER)]
        values = {
            "base_top1": Measured.share([it for row in top1 for it in sees(row, row["shows"])]),
            **{f"h0_{way}": by_way[way]["h0"] for way in by_way},
            "bit_identical_unrelated": self.identical(OURS),
            "false_alarms": self.steered(*parts.UNRELATED),
            "misses": self.misses(),
            "instead_recognised": self.instead(OURS, "recognised"),
            "rest_kept": self.rest(OURS, *parts.REST),
            "rest_kept_blend": self.rest_of_exchanged(OURS, *parts.REST),
            "rest_kept_swap": self.rest_of_exchanged(SWAP, *parts.REST),
            "instead_recognised_blend": self.instead_of_own(OURS),
            "instead_recognised_swap": self.instead_of_own(SWAP),
            "instead_recognised_replace": self.instead_of_own(REPLACE),
            "pairs_missed": self.pairs_missed(),
            "calls_unrelated": self.calls(OURS, parts.OTHER),
            "calls_erased": self.calls(OURS, parts.NAME),
        }
        return {
            f"{model}_{key}": it.mean if isinstance(it, Measured) else it
            for key, it in values.items()
            if it is not None
        }

    def _all_alike(self, way: str, other: str) -> bool:
        """Whether two ways have the same pictures, as far as was measured."""
        measured = ([(row["ssim"], row["seen"]) for row in self.rows if row["way"] == it] for it in (way, other))
        return len({str(it) for it in measured}) == 1

    def _base_row(self, row: Row) -> dict:
        return self.base[row["class"], row["text"]]

    def _base_draws(self, row: Row, thing: str) -> bool:
        return fmean(sees(self._base_row(row), thing)) >= DRAWS_IT


def auc_and_misses(scored: Iterable[tuple[str, Sequence[float]]]) -> tuple[float, float]:
    """Of (part, scores): AUC of names against unrelated, and the share of names below the cut of AT_FALSE_ALARMS."""
    scored = list(scored)
    asked = [it for part, scores in scored if part in parts.NAMES for it in scores]
    other = sorted(it for part, scores in scored if part in parts.UNRELATED for it in scores)
    cut = other[min(len(other) - 1, math.floor(len(other) * (1 - AT_FALSE_ALARMS)))]
    labels = [True] * len(asked) + [False] * len(other)
    return auc([*asked, *other], labels), fmean(it <= cut for it in asked)


def of_gates(cells: Mapping[str, dict]) -> dict[str, dict[str, tuple[float, float]]]:
    """Statistic -> step of 50 -> `auc_and_misses`, means over the classes; see `cells.score_gate`."""
    first = next(iter(cells.values()))["scores"]

    def mean(statistic: str, step: str) -> tuple[float, float]:
        both = [
            auc_and_misses((cell["parts"][text], scores) for text, scores in cell["scores"][statistic][step].items())
            for cell in cells.values()
        ]
        return fmean(pair[0] for pair in both), fmean(pair[1] for pair in both)

    return {statistic: {step: mean(statistic, step) for step in steps} for statistic, steps in first.items()}


def attack_shares(rows: Iterable[Row]) -> dict[str, dict[str, Measured | None]]:
    """Kind of attack -> way -> the share of pictures in which the class is still seen, where the base's show it.

    An attack counts if more than half of the base's pictures show the class; of others the base's share is given alone.
    """
    rows, by_kind = list(rows), {}
    for kind in dict.fromkeys(row["kind"] for row in rows):
        of_kind = [row for row in rows if row["kind"] == kind]
        works = {row["case"] for row in of_kind if row["way"] == BASE and fmean(sees(row, row["shows"])) >= DRAWS_IT}
        by_kind[kind] = {
            way: Measured.share([
                it for row in of_kind if row["way"] == way and (row["case"] in works or way == BASE)
                for it in sees(row, row["shows"])
            ])
            for way in LABELS
        }  # fmt: skip
    return by_kind


def of_many(cell: dict) -> dict[str, float]:
    """Of many concepts at once: shares and calls, see `cells.draw_many`."""
    gone = [row for row in cell["rows"] if row["forgotten"]]
    others = [row for row in cell["rows"] if not row["forgotten"]]
    erased = fmean(1 - it for row in gone for it in sees(row, row["shows"]))
    kept = fmean(it for row in others for it in sees(row, row["shows"]))
    return {
        "erased": erased, "others seen": kept,
        "others seen by the base": fmean(it for row in others for it in shares(row["seen_in_base"], row["shows"])),
        "others identical": fmean(it for row in others for it in row["identical"]),
        "right": fmean([*(1 - it for row in gone for it in sees(row, row["shows"])),
                        *(it for row in others for it in row["identical"])]),
        "calls, erased": fmean(row["calls"] for row in gone), "calls, others": fmean(row["calls"] for row in others),
        "calls": fmean(row["calls"] for row in cell["rows"]), "same in another order": cell["order"],
    }  # fmt: skip
