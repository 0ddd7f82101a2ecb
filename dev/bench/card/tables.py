"""The card as tables: for each model, and over all models. A table is its title and rows, a dict of cells each."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping

from dev.bench.card import prompts as parts
from dev.bench.card.axes import FORGET, Card, Measured, attack_shares, of_gates, of_many
from dev.bench.card.ways import BASE, LABELS, PAPER_SEEDS
from dev.bench.sessions import DEMO
from dev.families.trained import TRAINED

TITLES = {DEMO: "embedded model (UNet, eps)", **{name: family.title for name, family in TRAINED.items()}}
Rows = list[dict]
Tables = dict[str, Rows]


def cell(value: Measured | float | None) -> str:
    """A cell: nothing where nothing could be measured."""
    if value is None:
        return ""
    return str(value) if isinstance(value, Measured) else f"{value:.3g}"


def short(value: Measured | float | None, digits: int = 2) -> str:
    """A cell without its interval."""
    if value is None:
        return ""
    return f"{value.mean if isinstance(value, Measured) else value:.{digits}f}"


def headline(cards: Mapping[str, Card]) -> Rows:
    """A row for each model and way: the most important measure of each axis."""
    return [
        {
            "model": TITLES.get(model, model) if way == BASE else "",
            "sampling": LABELS[way],
            "H0": short(card.accuracies(way)["h0"]),
            "class still seen: name": short(card.left(way, parts.NAME)),
            "unseen word": short(card.left(way, parts.UNSEEN)),
            "other classes right": short(card.recognised(way, parts.OTHER)),
            "unrelated bit-identical": "" if way == BASE else short(card.identical(way)),
            "reference seen": "" if way == BASE else short(card.instead(way, "recognised")),
            "rest kept": short(card.rest(way, *parts.REST)),
            "model calls: erased": short(card.calls(way, parts.NAME), 0),
            "unrelated": short(card.calls(way, parts.OTHER), 0),
        }
        if way in card.ways()
        else {"model": "", "sampling": LABELS[way], "H0": card.refused[way]}
        for model, card in cards.items()
        for way in LABELS
    ]


def of_model(card: Card) -> Tables:
    """All tables of a model's prompt cells, with n and intervals."""
    ways = card.ways()

    def rows(columns: Mapping[str, object]) -> Rows:
        return [{"sampling": LABELS[way], **{head: cell(of(way)) for head, of in columns.items()}} for way in ways]

    own = {
        key: card.instead("reference", key) for key in ("recognised", "unsure", "saturation", "clipped", "diversity")
    }
    return {
        "Forgetting, from explicit to implicit: the class is still seen (of prompts for which the base draws it)": rows(
            {part: lambda way, part=part: card.left(way, part) for part in FORGET}
        ),
        "The class by its kinds, and neighbours": rows({
            "subclass: still seen": lambda way: card.left(way, parts.BELOW),
            "superclass: still seen": lambda way: card.left(way, parts.ABOVE),
            "superclass: as the base": lambda way: card.kept(way, parts.ABOVE),
            "other classes: right": lambda way: card.recognised(way, parts.OTHER),
            "neighbours: right": lambda way: card.recognised(way, parts.NEIGHBOUR),
            "neighbours: as the base": lambda way: card.kept(way, parts.NEIGHBOUR),
            "compounds: as the base": lambda way: card.kept(way, parts.COMPOUND),
            "captions: as the base": lambda way: card.kept(way, parts.CAPTION),
        }),
        "Unrelated pictures": rows({
            "bit-identical": card.identical,
            "the others: SSIM to the base's": lambda way: card.changed(way, "ssim"),
            "the others: distance of features": lambda way: card.changed(way, "distance"),
        }),
        "What is drawn instead": [
            *rows({
                "reference seen": lambda way: card.instead(way, "recognised"),
                "KID to the reference": lambda way: card.instead(way, "kid"),
                "judges unsure": lambda way: card.instead(way, "unsure"),
                "diversity": lambda way: card.instead(way, "diversity"),
                "saturation": lambda way: card.instead(way, "saturation"),
                "values clipped": lambda way: card.instead(way, "clipped"),
            }),
            {"sampling": "the base's own pictures of the reference", "reference seen": cell(own["recognised"]),
             "KID to the reference": "", "judges unsure": cell(own["unsure"]), "diversity": cell(own["diversity"]),
             "saturation": cell(own["saturation"]), "values clipped": cell(own["clipped"])},
        ],
        "The rest of the prompt is right (of prompts for which the base is)": rows(
            {part: lambda way, part=part: card.rest(way, part) for part in parts.REST}
            | {"with the words exchanged by hand: 1": lambda way: card.rest_of_exchanged(way, *parts.REST)}
        ),
        "Accuracies after MACE's protocol, on this model, means over the classes": [
            {"sampling": LABELS[way], **{head: f"{value:.3f}" for head, value in card.accuracies(way).items()}}
            for way in ways
        ],
        "Cost: model calls per picture": rows({
            "erased": lambda way: card.calls(way, parts.NAME),
            "unrelated": lambda way: card.calls(way, parts.OTHER),
        }),
        "The gate, per picture": list(gate_rows(card)),
    }  # fmt: skip


def gate_rows(card: Card) -> Iterator[dict]:
    """What the gate does in the pictures drawn, by part."""
    auc, misses = card.gate()
    yield {"measure": "AUC of the pictures drawn", "value": f"{auc:.3f}"}
    yield {"measure": "names missed at 1 % false alarms", "value": f"{misses:.3f}"}
    yield {"measure": "names missed (where the base's picture shows the class)", "value": cell(card.misses())}
    for part in parts.UNRELATED:
        yield {"measure": f"false alarms: {part}", "value": cell(card.steered(part))}
    for part in (*parts.NAMES, *parts.REST, parts.PAIR):
        yield {"measure": f"steered: {part}", "value": cell(card.steered(part))}
    for words, share in card.false_alarms_by_word().items():
        yield {"measure": f"false alarm: {words}", "value": f"{share:.2f}"}


def of_statistics(cells: Mapping[str, dict]) -> Rows:
    """A row for each statistic that a gate could use: AUC, and misses at 1 % false alarms, by step of 50."""
    if not cells:
        return []
    steps = next(iter(next(iter(cells.values()))["scores"].values()))
    return [
        {"statistic": statistic,
         **{f"step {step}": "{:.3f}, {:.2f}".format(*by_step[step]) if step in by_step else "" for step in steps}}
        for statistic, by_step in of_gates(cells).items()
    ]  # fmt: skip


def of_attacks(results: Iterable[dict]) -> Rows:
    """A row for each kind of attack: the share of pictures in which the class is still seen, by way."""
    shares = attack_shares(row for result in results for row in result["rows"])
    return [
        {"attack": kind, **{label: cell(by_way[way]) for way, label in LABELS.items() if any_of(shares, way)}}
        for kind, by_way in shares.items()
    ]


def any_of(shares: Mapping[str, Mapping[str, Measured | None]], way: str) -> bool:
    """Whether a way was measured under any attack."""
    return any(by_way[way] for by_way in shares.values())


def of_numbers(cells: Mapping[int, dict]) -> Rows:
    """A row for each number of concepts at once."""
    return [
        {"concepts": number, **{head: f"{value:.3g}" for head, value in of_many(result).items()}}
        for number, result in cells.items()
    ]


NOTES = (
    "Protocols: after EMMA (2512.17320), SEE (2508.15124), Six-CD (2406.14855), GenEval, M-ErasureBench (2512.22877), "
    "UnlearnDiffAtk, CCE, SPEED, UnlearnCanvas, HUB (2410.05664), each on these models and by these judges: no figure "
    f"here can stand in a table of those papers. The published method takes its rule from {PAPER_SEEDS} seeds (the "
    "paper's own: 30). Shares are means of both judges' top-1."
)
