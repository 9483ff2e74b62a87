"""Tensor parallel: one server over all GPUs, as clones may run it; the template may declare fewer."""

import pytest

from fixtures.base.errors import Unseen, unexpected
from fixtures.base.settings import Settings
from fixtures.run import answers
from fixtures.run.build import Build
from fixtures.serving import fingerprint
from fixtures.serving.image import Image
from fixtures.serving.server import Server
from fixtures.template.template import Template

pytestmark = [
    pytest.mark.stage("serving"),
    pytest.mark.order(52),
    pytest.mark.deep,
    pytest.mark.needs("test_gpus_add_up_together", "test_server_gets_ready"),
]


def test_all_gpus_serve_together(
    joint_server: Server | None, image: Image, template: Template, settings: Settings
) -> None:
    """One tensor-parallel server over all GPUs gives the expected answer."""
    if joint_server is None:  # the first server was one
        return
    joint_server.start(image, len(template.declared.gpus))
    joint_server.wait_until_ready()
    answer = joint_server.chat(settings.test_prompt)
    assert (answer.status, answer.model) == (200, settings.test_model), unexpected(
        f"asked {answer.question!r}: status {answer.status} of {answer.model!r}",
        f"status 200 of {settings.test_model!r}",
        run=joint_server.pasteable,
    )
    problem = answer.lacks(settings.expected_word)
    assert not problem, unexpected(
        problem, f"the word {settings.expected_word!r} in the answer", run=joint_server.pasteable
    )


@pytest.mark.needs("test_all_gpus_serve_together")
def test_all_gpus_answer_as_one_does(joint_server: Server | None, build: Build, settings: Settings) -> None:
    """The answers of all GPUs together agree, token by token, with those of one GPU, except for rounding."""
    if joint_server is None:  # the first server was one
        return
    if not settings.fingerprint:
        raise Unseen("unknown: whether answers agree: the fingerprint is off (-o fingerprint=on)")
    found = joint_server.record.fingerprint = fingerprint.take(joint_server, settings.answer_deadline)
    assert not found.wrong, unexpected(found.wrong, "finite log probabilities", run=joint_server.pasteable)
    if found.refused:
        raise Unseen(f"unknown: whether the answers are right: {found.refused}")
    agrees = answers.with_one_gpu(build, joint_server.record)
    assert not agrees.contradicts, unexpected(
        f"all GPUs together {agrees}",
        "the same answers up to rounding",
        cause="all-reduce is wrong in a way that the all-reduce check does not detect",
        run=joint_server.pasteable,
    )
