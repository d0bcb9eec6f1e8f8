"""One process a GPU: every task once, no more in hand than allowed, and who dies costs its own tasks alone."""

import os
import time
from collections.abc import Iterator
from typing import Any

import pytest

from cv_platform.vision.gpu.lost import DeviceLost
from cv_platform.vision.gpu.workers import Told, WorkersGone, in_turns, spread, visible


def whose(task: int) -> Iterator[Any]:
    """Two answers a task: it doubled, and which GPU's process did it."""
    yield task * 2
    yield os.environ["CUDA_VISIBLE_DEVICES"]


def loses_its_gpu(tasks: Iterator[tuple[int, Any]]) -> Iterator[tuple[int, Any, bool]]:
    for number, task in tasks:
        if os.environ["CUDA_VISIBLE_DEVICES"] == "1" or task == "poison":
            raise DeviceLost("the GPU is lost to this process")
        time.sleep(0.01)
        yield number, task, True


def gathered(told: Iterator[Told[Any, Any]]) -> tuple[dict[Any, list[Any]], list[Any]]:
    answers: dict[Any, list[Any]] = {}
    released = []
    for one in told:
        if one.released:
            released.append(one.task)
        else:
            answers.setdefault(one.task, []).append(one.answer)
    return answers, released


def test_every_task_is_done_once_by_a_process_that_sees_one_gpu() -> None:
    answers, released = gathered(spread(range(9), in_turns(whose), gpus=[0, 2], in_hand=2))
    assert {task: found[0] for task, found in answers.items()} == {n: 2 * n for n in range(9)}
    assert all(found[1] in ("0", "2") and len(found) == 2 for found in answers.values())
    assert released == []


def whose_process(task: int) -> Iterator[Any]:
    yield os.environ["CUDA_VISIBLE_DEVICES"], os.getpid()


def test_a_gpu_has_as_many_processes_as_are_asked_for() -> None:
    answers, _ = gathered(spread(range(40), in_turns(whose_process), gpus=[0, 2], per_gpu=2, in_hand=1))
    workers = {found[0] for found in answers.values()}
    assert len(answers) == 40
    assert sorted(gpu for gpu, _ in workers) == ["0", "0", "2", "2"]


def test_no_more_is_taken_than_may_be_in_hand() -> None:
    taken = []

    def tasks() -> Iterator[int]:
        for n in range(20):
            taken.append(n)
            yield n

    told = spread(tasks(), in_turns(whose), gpus=[0], in_hand=3)
    done = 0
    for one in told:
        done += one.ended
        assert len(taken) - done <= 3
    assert done == 20


def test_a_lost_gpu_releases_what_it_had_and_the_others_go_on(capfd: pytest.CaptureFixture[str]) -> None:
    answers, released = gathered(spread([f"clip {n}" for n in range(12)], loses_its_gpu, gpus=[0, 1], in_hand=3))
    assert sorted([*answers, *released]) == sorted(f"clip {n}" for n in range(12))
    assert 1 <= len(released) <= 3
    assert "DeviceLost" in capfd.readouterr().err


def test_with_no_process_left_it_says_so_after_all_is_released() -> None:
    told = spread(["poison"] * 9, loses_its_gpu, gpus=[0, 1], in_hand=2)
    assert [next(told).released for _ in range(4)] == [True] * 4
    with pytest.raises(WorkersGone):
        next(told)


def test_stopping_early_ends_the_processes() -> None:
    told = spread(range(100), in_turns(whose), gpus=[0], in_hand=2)
    next(told)
    told.close()  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    ("gpus", "per_gpu", "in_hand", "said"),
    [([], 1, 1, "gpus is"), ([1, 1], 1, 1, "each once"), ([0], 0, 1, "per_gpu is"), ([0], 1, 0, "in_hand is")],
)
def test_what_is_refused(gpus: list[int], per_gpu: int, in_hand: int, said: str) -> None:
    with pytest.raises(ValueError, match=said):
        next(spread([1], in_turns(whose), gpus=gpus, per_gpu=per_gpu, in_hand=in_hand))


def test_a_mig_slice_keeps_its_name() -> None:
    assert visible(1, None) == "1"
    assert visible(1, "MIG-a, MIG-b") == "MIG-b"
    with pytest.raises(ValueError, match="shows 1"):
        visible(1, "GPU-x")
