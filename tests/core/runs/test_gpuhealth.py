from pushtrain.core.runs.gpuhealth import GpuProcess, GpuSample, Trouble, trouble

GB = 10**9


def a_sample(**changed: object) -> GpuSample:
    return GpuSample.model_validate(
        {"uuid": "GPU-1", "at": 0.0, "memory": 24 * GB, "memory_used": 0, "processes": (), **changed}
    )


def test_a_quiet_card_is_sound() -> None:
    assert trouble(a_sample(), baseline=0) is None
    assert trouble(a_sample(asleep=True), baseline=0) is None


def test_a_card_that_does_not_answer_has_fallen_off() -> None:
    assert trouble(a_sample(lost=True), baseline=0) is Trouble.FALLEN_OFF


def test_only_new_memory_errors_count() -> None:
    assert trouble(a_sample(memory_errors=3), baseline=3) is None
    assert trouble(a_sample(memory_errors=4), baseline=3) is Trouble.MEMORY_ERRORS
    assert trouble(a_sample(retire_pending=True), baseline=0) is Trouble.MEMORY_ERRORS


def test_memory_that_nobody_holds_is_told() -> None:
    assert trouble(a_sample(memory_used=9 * GB), baseline=0) is Trouble.HELD
    holder = GpuProcess(pid=4, memory=9 * GB)
    assert trouble(a_sample(memory_used=9 * GB, processes=(holder,)), baseline=0) is None


def test_memory_is_not_called_held_where_its_holders_cannot_be_known() -> None:
    hidden = GpuProcess(pid=4)
    used = 9 * GB
    assert trouble(a_sample(memory_used=used, processes=None), baseline=0) is None  # WSL2
    assert trouble(a_sample(memory_used=used, processes=(hidden,)), baseline=0) is None
    assert trouble(a_sample(memory_used=used, display=True), baseline=0) is None
    assert trouble(a_sample(memory_used=used), baseline=0, ours=(12,)) is None
