"""One seed decides everything: the jobs of all apps, and which accident comes when."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from _chaos_plan import DEMO, ECHO, QUIET, Scale, faults, jobs

SCALES = st.builds(
    Scale,
    jobs=st.integers(1, 200),
    apps=st.integers(1, 9),
    demo_share=st.sampled_from((0.0, 0.5, 1.0)),
    workers=st.integers(0, 9),
    daemons=st.integers(0, 9),
    killed_apps=st.integers(0, 9),
    leaves=st.integers(0, 9),
    cancels=st.integers(0, 9),
)


@given(st.integers(0, 99), SCALES)
def test_one_seed_is_one_plan(seed: int, scale: Scale) -> None:
    assert jobs(seed, scale) == jobs(seed, scale)
    assert faults(seed, scale) == faults(seed, scale)


@given(st.integers(0, 99), SCALES)
def test_every_job_belongs_to_one_app(seed: int, scale: Scale) -> None:
    plans = jobs(seed, scale)
    planned = [job for plan in plans for job in plan]
    assert len(plans) == scale.apps
    assert len({job.id for job in planned}) == len(planned) == scale.jobs
    assert sum(job.cancel_at is not None for job in planned) == min(scale.cancels, scale.jobs)
    assert sum(job.leave for job in planned) == min(scale.leaves, scale.jobs)


@given(st.integers(0, 99), SCALES)
def test_the_last_daemon_lives_long(seed: int, scale: Scale) -> None:
    planned = faults(seed, scale)
    assert len(planned) == scale.workers + scale.daemons + scale.killed_apps
    assert [one.after for one in planned] == sorted(one.after for one in planned)
    assert all(one.after <= QUIET * scale.jobs for one in planned if one.kind == "daemon")
    assert all(one.after < scale.jobs for one in planned), "or it would never come"


def test_two_jobs_without_a_model_never_have_one_picture() -> None:
    scale = Scale(
        jobs=500, apps=2, demo_share=0.1, workers=0, daemons=0, killed_apps=0, leaves=0, cancels=0
    )
    planned = [job for plan in jobs(1, scale) for job in plan]
    echoes = [job for job in planned if job.model in ECHO]
    assert len({(job.prompt, job.seed) for job in echoes}) == len(echoes)
    assert {job.model for job in planned} == {*ECHO, *DEMO}
