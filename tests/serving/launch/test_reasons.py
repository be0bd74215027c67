"""Why an engine ended, from logs as vLLM and Python write them."""

from evenmoe.serving.launch.draining import DRAINED
from evenmoe.serving.launch.reasons import MOST_LINES, error_lines, in_words, tells_of_death

CORE = "(EngineCore pid=7) ERROR 11-22 16:00:01 [core.py:1500] "
LOG = [
    "(APIServer pid=3) INFO 11-22 16:00:00 [api.py:1] Starting vLLM server",
    CORE + "EngineCore failed to start.",
    CORE + "Traceback (most recent call last):",
    CORE + '  File "/x/engine.py", line 3, in load',
    CORE + "    raise ConfigError(field, value)",
    CORE + "              ^^^^^^^^^^^",
    CORE + "evenmoe.errors.ConfigError: evenmoe.routing.gama = 1 is not allowed: no such field",
    "(APIServer pid=3) Traceback (most recent call last):",
    '(APIServer pid=3)   File "/x/api.py", line 9, in main',
    "(APIServer pid=3) RuntimeError: Engine core initialization failed. See root cause above.",
    "nanobind: leaked 4 instances!",
]


def test_the_lines_that_say_why_come_without_prefixes_and_frames():
    assert error_lines(LOG) == [
        "evenmoe.errors.ConfigError: evenmoe.routing.gama = 1 is not allowed: no such field",
        "EngineCore failed to start.",
        "RuntimeError: Engine core initialization failed. See root cause above.",
    ]


def test_an_error_of_ours_is_told_however_much_came_after_it():
    assert error_lines(LOG + [f"ValueError: {number}" for number in range(50)])[0].startswith(
        "evenmoe.errors"
    )


def test_a_log_without_errors_is_quoted_by_its_end():
    lines = [f"line {number}" for number in range(20)]
    assert error_lines(lines) == lines[-MOST_LINES:]
    assert error_lines([]) == []


def test_repeated_lines_are_told_once_where_they_came_last():
    assert error_lines(["ValueError: a", "ValueError: b", "ValueError: a"]) == [
        "ValueError: b",
        "ValueError: a",
    ]


def test_statuses_in_words():
    assert in_words(3) == "exited with status 3"
    assert in_words(-9) == "was ended by SIGKILL"
    assert in_words(-200) == "was ended by signal 200"


DEATH = "(Worker) ERROR Worker proc VllmWorker-0 died unexpectedly, shutting down executor."


def test_what_tells_of_a_death():
    assert tells_of_death([DEATH])
    assert not tells_of_death([*LOG[:1], "[shutdown] EngineCore: exiting busy loop"])


def test_processes_that_end_when_all_is_answered_died_under_no_request():
    assert not tells_of_death([f"WARNING:  {DRAINED}", DEATH])
    assert tells_of_death([DEATH, f"WARNING:  {DRAINED}"])


DEATH = "(EngineCore pid=7) ERROR 11-22 15:49:57 [multiproc_executor.py:315] Worker proc VllmWorker-0 died unexpectedly"
NOISE = (
    "(EngineCore pid=7) ERROR 11-22 15:49:57 [dump_input.py:72] Dumping input data for V1 LLM engine: secret"
)


def test_which_process_died_comes_first_and_what_clients_sent_not_at_all():
    later = [f"ValueError: {number}" for number in range(50)]
    told = error_lines([DEATH, NOISE, *later])
    assert told == ["Worker proc VllmWorker-0 died unexpectedly", *later[-MOST_LINES:]]


def test_a_core_that_is_gone_is_named_though_vllm_only_warns():
    gone = "engine core exited unexpectedly; starting cleanup"
    assert error_lines(
        [f"(APIServer pid=3) WARNING 11-22 16:07:24 [core_client.py:817] {gone}", "INFO: bye"]
    ) == [gone]
