"""How well a concept is forgotten, and nothing else. Accuracies and H0 are shares between 0 and 1."""


def h0(acc_e: float, acc_s: float, acc_g: float) -> float:
    """MACE's overall score: harmonic mean of efficacy `1 - acc_e`, specificity `acc_s`, generality `1 - acc_g`.

    acc_e: how often the erased class is still recognised in pictures of its own prompt (lower is better);
    acc_s: how often the other classes are recognised in theirs (higher is better);
    acc_g: as acc_e, for prompts with synonyms of the erased class (lower is better). 0 if any term is 0.
    """
    terms = (1.0 - acc_e, acc_s, 1.0 - acc_g)
    return 3.0 / sum(1.0 / term for term in terms) if all(term > 0 for term in terms) else 0.0
