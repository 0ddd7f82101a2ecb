"""A sweep's report without its pictures: every job of a plan is entered as done."""

import torch

from dev.sweep.plan import Plan, Settings
from dev.sweep.renderer import png_of
from dev.sweep.report import write_report
from dev.sweep.results import RenderedPicture, Results


def write_sweep_report(settings: Settings, **fields) -> None:
    """Write the report of a sweep with these settings, of black pictures with further fields of their results."""
    plan = Plan(settings)
    with Results(settings.output, settings) as results:
        for job in plan.jobs():
            result = {"number": job.number, "prompt": job.prompt, "seed": job.seed, "guidance": 7.5, "lora": job.lora,
                      "mode": job.mode, "evaluations": 2, **fields}  # fmt: skip
            results.add(job, RenderedPicture(png_of(torch.zeros(3, 8, 8), result), result))
        write_report(settings.output, results, plan)
