"""A run is handed out when it keeps its limits and people have signed for it as it is, and not otherwise."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
from safetensors.numpy import load_file

from fedmed.cli.app import main
from fedmed.config.load import load_config
from fedmed.errors import KeyFileError, ReleaseBrokenError, ReleaseError, ReleaseUnprovenError
from fedmed.pipeline.evaluation_file import keep_part
from fedmed.pipeline.federation import run_federation
from fedmed.pipeline.privacy_audit import audit_run
from fedmed.pipeline.release import release_run, sign_off
from fedmed.pipeline.release_verify import signed_statement, verify_release
from fedmed.pipeline.run_audit import verify_run
from fedmed.pipeline.run_folder import RunFolder
from fedmed.pipeline.run_report import report_run
from fedmed.pipeline.sign_offs import release_standing
from fedmed.utils.audit_log import owners_key
from fedmed.utils.digests import arrays_sha256

pytestmark = pytest.mark.integration
pytest.importorskip("dp_accounting")
pytest.importorskip("cryptography")

PHRASE = "Zebrafinch-4711"
ROLES = ("clinician", "data-protection", "engineer")
TINY = [
    "model.name=builtin:tiny-llama", "model.generation.max_new_tokens=4", "training.dataset.name=records.jsonl",
    "training.dataset.test_fraction=0.5", "training.max_steps=3", "training.batch_size=4", "training.threads=1",
    "training.gradient_accumulation_steps=1", "training.learning_rate=0.02",
    "training.evaluation.max_records_per_hospital=8", "training.evaluation.multiple_choice_items=0",
    "training.evaluation.generated_answers=0", "training.evaluation.few_shot=0",
    "training.evaluation.calibration_items=0", "training.evaluation.sample_answers=0",
    "training.dataset.gate.unscanned=true", "federated.num_clients=2", "federated.rounds=2",
    "privacy.audit.records=20", "privacy.audit.max_tpr_at_1_percent_fpr=null", "privacy.audit.max_exposure_bits=null",
    "privacy.audit.max_membership_auc=1.0", "safety.release.unscanned=true",
]  # fmt: skip


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A finished run that was attacked, and the key of its audit log; nobody changes this one."""
    place = tmp_path_factory.mktemp("made")
    lines = [
        {"question": f"What is {PHRASE} {i}?", "answer": f"{PHRASE} is sign {i} of the lung.", "group": f"patient {i}"}
        for i in range(60)
    ]
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(place)
        Path("records.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")
        run_federation(load_config(None, (), TINY), out=Path("run"))
        shutil.copytree("run", "unattacked")
        audit_run(Path("run"))
    return place


@pytest.fixture
def run(made, tmp_path, monkeypatch):
    """A copy of that run, in a folder of its own."""
    monkeypatch.chdir(tmp_path)
    shutil.copytree(made / "run", "run")
    shutil.copytree(made / "output-models", "output-models")
    return Path("run")


def signed(run, roles=ROLES, **more):
    for role in roles:
        sign_off(run, name=f"Dr {role}", role=role, key=Path(f"{role}.key"), make_key=True, **more)


def files(folder):
    return {path: path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file() and path.name != ".lock"}


def test_what_is_missing_is_told_all_at_once_and_nothing_is_written(made, run, capsys):
    shutil.rmtree(run)
    shutil.copytree(made / "unattacked", run)
    before = files(Path())
    asked = ["--set", "safety.release.exams=[medqa]", "--set", "safety.release.min_gain=0.99"]
    assert main(["release", "run", *asked, "--set", "safety.release.unscanned=false"]) == 85
    shown = capsys.readouterr()
    assert "kept     audit log: intact" in shown.out
    header, *missing = shown.err.splitlines()
    assert header.startswith("error: run is not released, 7 still missing:")
    assert [line.strip().split(":")[0] for line in missing] == [
        "records", "held-out loss", "exams", "privacy audit", *(f"sign-off by {role}" for role in ROLES)
    ]  # fmt: skip
    assert "Traceback" not in shown.err
    assert files(Path()) == before
    assert main(["release", "make", "run", "--json"]) == 85
    told = json.loads(capsys.readouterr().out)
    assert (told["released"], len(told["missing"])) == (False, 4)
    with pytest.raises(ReleaseError, match="not fit to be signed"):
        sign_off(run, name="Dr A", role="clinician", key=Path("a.key"), make_key=True)
    assert not Path("a.key").exists()


def test_a_run_with_all_signatures_becomes_a_signed_adapter_and_a_line_of_the_log(run, capsys):
    signed(run)
    changing = ("audit.jsonl", "report.html", *(f"hospital_{letter}.jsonl" for letter in "AB"))
    before = {path: raw for path, raw in files(run).items() if path.name.removeprefix(".") not in changing}
    assert main(["release", "run"]) == 0
    assert "released run/release" in capsys.readouterr().out
    assert {path: raw for path, raw in files(run).items() if path in before} == before
    assert "everybody who must has signed" in (run / "report.html").read_text()
    key = owners_key().public.hex()
    statement = verify_release(run / "release", [key])
    summary = json.loads((run / "summary.json").read_text())
    assert arrays_sha256(load_file(run / "release/adapter_model.safetensors")) == summary["adapter_sha256"]
    assert statement["evidence"]["adapter_sha256"] == summary["adapter_sha256"]
    assert [one["role"] for one in statement["sign_offs"]] == list(ROLES)
    card = (run / "release/README.md").read_text()
    assert all(f"Dr {role}" in card for role in ROLES)
    assert summary["privacy"]["not_covered"][0] in card
    lines = [json.loads(line) for line in (run / "audit.jsonl").read_text().splitlines()]
    (entered,) = [line for line in lines if line["kind"] == "release"]
    assert entered["adapter"] == summary["adapter_sha256"]
    assert entered["signed_off_by"] == [f"Dr {role}" for role in ROLES]
    assert statement["audit_log"]["head"] == lines[-1]["sha256"]
    assert verify_run(run).verdict == "intact"
    assert not any(PHRASE.encode() in raw for raw in files(run / "release").values())
    assert main(["release", "verify", "run/release", "--key", key]) == 0
    assert main(["release", "verify", "run/release"]) == 87
    assert main(["release", "verify", "run/release", "--key", "ab" * 32]) == 86
    assert main(["release", "verify", "run"]) == 86


@pytest.mark.parametrize(
    ("change", "named"),
    [
        (lambda run: (run / "summary.json").write_text((run / "summary.json").read_text() + " "), "summary.json"),
        (lambda run: (run / "evaluation.json").write_text("{}"), "evaluation.json"),
        (lambda run: (run / "privacy_audit.json").unlink(), "privacy_audit.json"),
        (lambda run: (run / "config.yaml").write_text((run / "config.yaml").read_text() + "#\n"), "config.yaml"),
    ],
    ids=["rewritten", "added", "removed", "settings"],
)
def test_any_change_of_what_was_signed_for_makes_every_signature_void(run, change, named):
    signed(run)
    change(run)
    with pytest.raises(ReleaseError) as caught:
        release_run(run)
    void = [one for one in caught.value.missing if one.startswith("sign-off")]
    assert len(void) == 3
    assert all(f"{named} changed since" in one for one in void)
    assert not (run / "release").exists()


def test_other_limits_than_were_signed_for_make_signatures_void(run):
    signed(run)
    with pytest.raises(ReleaseError) as caught:
        release_run(run, overrides=["safety.release.min_gain=-1.0"])
    assert all("limits, overridden changed since" in one for one in caught.value.missing)
    with pytest.raises(ReleaseError) as caught:
        release_run(run, overrides=["privacy.audit.max_membership_auc=0.9"])
    assert "held against another max_membership_auc" in caught.value.missing[0]


@pytest.mark.parametrize(("fell", "kept"), [(0.01, True), (0.03, False)])
def test_exams_and_the_claimed_epsilon_are_held_against_their_limits(run, fell, kept):
    interval = {"value": -fell, "low": -0.2, "high": 0.2}
    summary = json.loads((run / "summary.json").read_text())
    found = {
        "adapter_sha256": summary["adapter_sha256"], "tasks": {"medqa": {}}, "mean": {"acc": {"delta": interval}},
    }  # fmt: skip
    keep_part(RunFolder(run), "exams", found, wall_s=1.0, numbers={})
    checks = {one.name: one for one in release_standing(run, ["safety.release.max_epsilon=8.0"]).checks}
    assert checks["exams' mean"].kept is kept
    assert f"-{fell:.1%} right answers" in checks["exams' mean"].told
    assert not checks["ε"].kept  # the run claims none
    keep_part(RunFolder(run), "exams", found | {"adapter_sha256": "ab" * 32}, wall_s=1.0, numbers={})
    assert "not taken by this adapter" in {one.name: one for one in release_standing(run).checks}["exams"].told


def test_an_exchanged_adapter_is_not_released_whoever_signed(run):
    signed(run)
    weights = run / "adapter/adapter_model.safetensors"
    raw = weights.read_bytes()
    weights.write_bytes(raw[:-1] + bytes([raw[-1] ^ 1]))
    with pytest.raises(ReleaseError) as caught:
        release_run(run)
    assert any(one.startswith("audit log: line") and "adapter_model" in one for one in caught.value.missing)


def test_a_summary_that_boasts_is_not_what_the_gate_reads(run):
    summary = json.loads((run / "summary.json").read_text())
    told = {check.name: check.told for check in release_standing(run).checks}
    summary["loss"] |= {"federated": 0.01}
    summary["gain"] |= {"relative": 0.99, "low": 0.98}
    (run / "summary.json").write_text(json.dumps(summary))
    assert {check.name: check.told for check in release_standing(run).checks} == told


def test_damaged_files_are_missing_evidence_and_the_report_is_written_all_the_same(run):
    for name in ("summary.json", "evaluation.json", "privacy_audit.json", "baseline.json"):
        for damaged in ("[]", '{"exams": 7, "audit": [], "beyond": {}, "limits": null, "privacy": 3, "nll": 1}'):
            before = (run / name).read_bytes() if (run / name).is_file() else None
            (run / name).write_text(damaged)
            with pytest.raises(ReleaseError) as caught:
                release_run(run)
            assert len(caught.value.missing) > len(ROLES)
            if damaged != "[]":
                report_run(run)
            (run / name).unlink() if before is None else (run / name).write_bytes(before)
    release_standing(run)


def test_one_key_signs_for_one_role_and_only_for_what_it_is_allowed(run):
    for role in ROLES:
        sign_off(run, name="Dr A", role=role, key=Path("a.key"), make_key=True)
    with pytest.raises(ReleaseError) as caught:
        release_run(run)
    assert len(caught.value.missing) == 2
    assert all("signed for another role already" in one for one in caught.value.missing)
    allowed = [f"safety.release.signers={{clinician: [{'ab' * 32}]}}"]
    with pytest.raises(KeyFileError, match="may not sign as clinician"):
        sign_off(run, name="Dr A", role="clinician", key=Path("a.key"), overrides=allowed)
    with pytest.raises(KeyFileError, match="there is no key"):
        sign_off(run, name="Dr A", role="clinician", key=Path("b.key"))


def test_a_sign_off_that_was_edited_does_not_count(run):
    signed(run)
    (file,) = (run / "sign_offs").glob("clinician-*")
    file.write_text(file.read_text().replace('"Dr clinician"', '"Dr Other"'))
    (run / "sign_offs" / "clinician-x.json").write_text("{")
    with pytest.raises(ReleaseError) as caught:
        release_run(run)
    assert len(caught.value.missing) == 1
    assert "its signature does not hold" in caught.value.missing[0]


def test_a_release_that_was_touched_is_named_broken_and_its_owner_cannot_change_what_people_signed(run):
    signed(run)
    release_run(run)
    place, key = run / "release", owners_key().public.hex()
    whole = files(place)

    def broken(match):
        with pytest.raises(ReleaseBrokenError, match=match):
            verify_release(place, [key])
        for path in files(place).keys() - whole.keys():
            path.unlink()
        for path, raw in whole.items():
            path.write_bytes(raw)

    with pytest.raises(ReleaseUnprovenError):
        verify_release(place)
    for path in whole:
        path.write_bytes(whole[path] + b" \n" if path.suffix != ".json" else whole[path].replace(b"a", b"b", 1))
        broken("does not hold|was changed")
    (place / "more.py").write_text("print()")
    broken("more.py was added")
    (place / "README.md").unlink()
    broken("README.md is missing")

    def resigned(change):
        statement = json.loads((place / "release.json").read_text())
        change(statement)
        statement["signature"] = owners_key().sign(signed_statement(statement)).hex()
        (place / "release.json").write_text(json.dumps(statement))

    resigned(lambda one: one["evidence"]["limits"]["release"].update(min_gain=0.5))
    broken("the evidence is not what people signed")
    resigned(lambda one: one["sign_offs"].pop())
    broken("nobody signed as engineer")
    resigned(lambda one: one["sign_offs"][0].update(name="Dr Other"))
    broken("the sign-off of Dr Other does not hold")
    resigned(lambda one: one["evidence"].update(limits=[], files=7))
    broken("the evidence is not what people signed")
