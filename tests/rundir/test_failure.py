from rundir.failure import failure_of, forget_failure, write_failure
from rundir.options import write_options
from rundir.read import read_runs


def test_a_report_says_why_a_run_failed(tmp_path):
    run = tmp_path / "run"
    run.mkdir()
    write_failure(run, "no run here")
    assert failure_of(run) == "" and not list(run.iterdir())
    write_options(run, {"method": "dino", "seed": 0})
    write_failure(run, "the loss is not finite")
    (read,), problems = read_runs([run])
    assert read.failure == failure_of(run) == "the loss is not finite"
    assert ["failed: the loss is not finite" in problem.what for problem in problems] == [True]
    (run / "failure.json").write_text('{"reason": [1]}')
    assert failure_of(run) == ""
    forget_failure(run)
    forget_failure(run)
    assert read_runs([run])[0][0].failure == ""
