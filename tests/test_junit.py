"""A CI server's view: each case is named by its stage and its sentence."""

from __future__ import annotations

from xml.etree import ElementTree

from fixtures.record.exports import junit
from fixtures.run.stages import CheckResult

CHECKS = [
    CheckResult("test_030_stack.py::test_docker", "inherited stack", "Docker runs.", "failed"),
    CheckResult("test_050_serving.py::TestServer::test_answers[gpu1]", "serving", "GPU 1: It answers.", "passed"),
]
TEXT = """<?xml version="1.0"?><testsuites><testsuite>
<testcase classname="tests_920.test_030_stack" name="test_docker"><failure message="a &lt;b&gt;">x</failure></testcase>
<testcase classname="tests_920.test_050_serving.TestServer" name="test_answers[gpu1]" time="1"/>
<testcase classname="nodes" name="build[@pve]" /><testcase time="1.0" />
</testsuite></testsuites>"""


def test_case_has_stage_and_sentence() -> None:
    cases = list(ElementTree.fromstring(junit.named(TEXT, CHECKS)).iter("testcase"))
    assert [(case.get("classname"), case.get("name")) for case in cases] == [
        ("inherited stack", "Docker runs"),
        ("serving", "GPU 1: It answers"),
        ("nodes", "build[@pve]"),
    ]
    assert [case.get("group") for case in cases[:2]] == [check.name for check in CHECKS]
    failure = cases[0].find("failure")
    assert failure is not None
    assert failure.get("message") == "a <b>"


def test_file_that_is_no_xml_stays() -> None:
    assert junit.named("<testsuites>", CHECKS) == "<testsuites>"
