"""What HIPAA's rules and the GDPR ask, and what here answers: the table behind the report's section. HERE -> report.

Each row names code and a test that proves it (``tests/unit/evaluation/test_compliance.py`` holds that both are there),
what of a run is evidence, and what no software does for the hospital. Code is relative to ``src/fedmed``.

Not covered: any claim that a run complies with a law, or that somebody certified it. Whether it does depends on what
``remains`` names; law differs by country, and was read in its English text (45 CFR part 164; Regulation (EU) 2016/679).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Evidence = Literal[
    "gate", "consent", "manifest", "payloads", "simulation", "masks", "log", "digests", "noise", "attacks", "forgotten",
    "answers", "settings",
]  # fmt: skip
"""What of a run speaks for a control; ``report_compliance.py`` reads it from the run's files."""


@dataclass(frozen=True, slots=True)
class Control:
    """One row."""

    law: Literal["HIPAA", "GDPR"]
    where: str  # section or article
    asks: str
    does: str
    code: tuple[str, ...]
    tests: tuple[str, ...]  # path::name
    evidence: Evidence
    remains: str  # the hospital's own duty


CONTROLS = (
    Control(
        "HIPAA", "§ 164.514(b)(2)", "Records are de-identified: eighteen kinds of identifiers removed",
        "Rules and gazetteers find them, something else stands in their place, doubtful records are set aside",
        ("data/deidentify/engine.py", "data/gate/build.py"),
        (
            "tests/unit/data/gate/test_build.py::test_what_passes_holds_nothing_original_and_what_does_not_is_set_aside",
            "tests/property/test_deidentify.py::test_no_identifier_survives_in_output_or_report_or_log",
        ),
        "gate",
        "Rules miss some: read a sample. Whether what is left could identify a person is yours to know, or an expert's "
        "to determine",
    ),
    Control(
        "HIPAA", "§ 164.502(b), 164.514(d)", "No more is disclosed than is needed",
        "One payload a round leaves a hospital: numbers of the adapter and, if shared, losses and counts",
        ("federated/wire.py", "network/policy.py"),
        (
            "tests/unit/federated/test_wire.py::test_a_message_of_fp32_is_these_bytes",
            "tests/integration/test_run.py::test_a_run_that_shares_no_metrics_tells_none",
        ),
        "payloads",
        "Decide what you share (privacy.share_metrics, policy.yaml) and with whom; an update is not harmless",
    ),
    Control(
        "HIPAA", "§ 164.312(a)(1)", "Only those who may have access",
        "Private keys are their owner's alone and can be encrypted; the server of answers asks for a key",
        ("network/key_files.py", "serving/limits.py"),
        (
            "tests/unit/network/test_key_files.py::test_a_key_that_others_may_use_is_refused",
            "tests/unit/serving/test_limits.py::test_any_other_header_is_refused_without_repeating_it",
        ),
        "simulation",
        "Accounts, rights and encryption of the machines that hold records, runs and keys",
    ),
    Control(
        "HIPAA", "§ 164.312(b)", "What happened is recorded and can be examined",
        "A chained log, whose head every hospital is given each round; signed at the end",
        ("utils/audit_log.py", "utils/audit_verify.py"),
        (
            "tests/property/test_audit_log.py::"
            "test_ten_thousand_edits_cuts_and_logs_written_anew_by_their_owner_are_all_found",
            "tests/integration/test_run_audit.py::test_files_that_the_log_names_cannot_be_exchanged_unseen",
        ),
        "log",
        "Keep your witness file apart from the coordinator's reach, verify, and look at what the log says",
    ),
    Control(
        "HIPAA", "§ 164.312(c)(1)", "Nothing is altered or destroyed unseen",
        "Digests of records, updates, checkpoints and adapter; a damaged checkpoint is not gone on from",
        ("federated/checkpoint.py", "utils/digests.py"),
        ("tests/property/test_checkpoint.py::test_any_flipped_bit_or_cut_in_any_file_is_noticed",),
        "digests",
        "Backups, and trying whether they can be restored",
    ),
    Control(
        "HIPAA", "§ 164.312(d)", "Who asks is who they say they are",
        "Hospitals and coordinator know each other by keys that two people compared; every order and reply is signed",
        ("network/joining.py", "network/orders.py"),
        (
            "tests/property/test_joining.py::test_a_request_signed_with_another_key_than_it_shows_is_refused",
            "tests/property/test_orders.py::test_an_order_with_any_changed_bit_is_refused",
        ),
        "simulation",
        "Compare fingerprints by a channel that you trust; tell the coordinator when a key may be lost",
    ),
    Control(
        "HIPAA", "§ 164.312(e)(1)", "What is transmitted is protected on its way",
        "TLS by the federation's own authority; updates can be summed under masks, so that nobody sees one",
        ("network/authority.py", "privacy/secure_sum/hospital.py"),
        (
            "tests/network/test_federation.py::test_a_client_that_does_not_speak_tls_is_refused_and_logged",
            "tests/unit/federated/test_masked_round.py::"
            "test_what_the_coordinator_receives_of_an_update_is_never_the_update",
        ),
        "masks",
        "The network around it, renewal of certificates; whether to use masks, which are off by default",
    ),
    Control(
        "HIPAA", "§ 164.308(a)(1)(ii)(A)", "Risks are analysed",
        "A threat model line by line, and attacks on the finished adapter held against limits",
        ("pipeline/privacy_audit.py", "evaluation/attacks/membership.py"),
        (
            "tests/integration/test_attacks.py::"
            "test_without_privacy_membership_and_canaries_show_and_the_gate_says_so",
            "tests/unit/test_threat_model.py::test_a_line_names_a_test_or_is_open",
        ),
        "attacks",
        "The analysis itself, for your own systems and people; docs/threat-model.md says what stays open",
    ),
    Control(
        "HIPAA", "§ 164.508, 164.512(i)", "Research uses records with an authorization, or a board's waiver",
        "Where the export has a field of consent, records without a yes in it are refused",
        ("data/gate/admission.py",),
        (
            "tests/unit/data/gate/test_keys_and_admission.py::"
            "test_without_consent_nothing_comes_in_where_consent_is_asked",
        ),
        "consent",
        "Authorizations, or the waiver of a review or privacy board; mark consent in the export",
    ),
    Control(
        "GDPR", "Art. 5(1)(b), 6, 9", "Processing has a purpose and a legal basis; health data needs an exception",
        "A hospital's policy file says which models, methods and settings its records may serve; a person can be asked",
        ("network/policy.py",),
        (
            "tests/unit/network/test_policy.py::test_each_rule_refuses_what_it_is_about_and_nothing_else",
            "tests/unit/network/test_worker.py::test_a_person_is_asked_only_about_what_the_policy_lets_through",
        ),
        "simulation",
        "The basis and the exception, and telling people (Art. 13, 14)",
    ),
    Control(
        "GDPR", "Art. 5(1)(c), 25", "As little data as is needed, by design and by default",
        "Records stay; updates can be noised inside the hospital and charged to its ledger before they leave",
        ("training/dp_sgd.py", "privacy/ledger.py"),
        (
            "tests/integration/test_dp_sgd.py::"
            "test_a_round_is_charged_before_it_trains_and_again_when_it_is_trained_again",
            "tests/property/test_ledger.py::test_what_is_spent_never_passes_the_budget_and_a_refusal_writes_nothing",
        ),
        "noise",
        "Choose ε; without noise, as by default, an adapter may be personal data itself",
    ),
    Control(
        "GDPR", "Art. 4(5), 32(1)(a)", "Names are replaced, and what links them is kept apart",
        "Patients and records go by names that only the hospital's key can make; runs hold no list of them",
        ("data/gate/keys.py", "data/gate/lineage.py"),
        (
            "tests/unit/data/gate/test_keys_and_admission.py::test_names_are_equal_where_ids_are_and_show_nothing_of_them",
            "tests/unit/data/gate/test_keys_and_admission.py::test_a_key_that_others_can_read_is_refused",
        ),
        "gate",
        "Keep that key; pseudonymous records stay personal data",
    ),
    Control(
        "GDPR", "Art. 5(2), 30", "Who is responsible can show what was done",
        "Manifest of the records by digest, settings, command, versions, and the audit log, in the run's folder",
        ("data/split_folder.py", "pipeline/run_audit.py"),
        ("tests/integration/test_run.py::test_a_run_leaves_what_the_architecture_promises",),
        "manifest",
        "The record of processing activities, and agreements among controllers (Art. 26, 28)",
    ),
    Control(
        "GDPR", "Art. 7(3), 17", "Consent can be withdrawn, data erased",
        "fedmed data forget: a tombstone, then sets, splits, tokens, checkpoints and sample answers; names the runs",
        ("pipeline/forget.py", "data/gate/forgotten.py"),
        (
            "tests/integration/test_data_gate.py::"
            "test_a_forgotten_patient_is_nowhere_comes_back_refused_and_the_lineage_names_the_run",
        ),
        "forgotten",
        "An adapter keeps what it learnt: train again or withdraw it. Exports and backups elsewhere",
    ),
    Control(
        "GDPR", "Art. 32(1)(b), (d)", "Processing is secure and resilient, and that is tested",
        "A killed run goes on to the same adapter; faults over a real federation are survived",
        ("federated/checkpoint.py", "network/outbox.py"),
        (
            "tests/integration/test_run.py::test_a_killed_run_resumes_to_the_identical_adapter",
            "tests/unit/network/test_worker.py::test_a_worker_killed_between_training_and_reply_gives_the_same_bytes",
        ),
        "digests",
        "Patching, backups, people, premises; notifying a breach (Art. 33, 34)",
    ),
    Control(
        "GDPR", "Art. 35", "High risks are assessed beforehand, with the officer's advice",
        "What a budget of privacy buys is told before a run; a release needs the officer's signature",
        ("pipeline/privacy_plan.py", "pipeline/release.py"),
        (
            "tests/unit/cli/test_privacy.py::test_four_hospitals_cannot_hide_one_and_hundreds_can",
            "tests/integration/test_release.py::test_what_is_missing_is_told_all_at_once_and_nothing_is_written",
        ),
        "settings",
        "The assessment itself, and asking the authority where risks stay high (Art. 36)",
    ),
    Control(
        "GDPR", "Art. 22", "Nobody is subject to a decision by a machine alone",
        "Every answer passes rails and carries a disclaimer; there is no way around them to a person",
        ("safety/guarded.py", "safety/guardrails.py"),
        (
            "tests/property/test_guardrails.py::"
            "test_an_answer_is_shown_only_when_both_rails_and_the_confidence_allow_it",
        ),
        "answers",
        "A professional reviews what it says. It is not for clinical use",
    ),
)  # fmt: skip
