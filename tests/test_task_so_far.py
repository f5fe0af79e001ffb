"""What a task amounts to: its mean loss, the best epoch, and the one that validation selects."""

import numpy as np

from lopbench.loggers.records import Record
from lopbench.task_so_far import TaskSoFar


def after_epochs(**tags: list[list[float]]) -> dict[str, list[float]]:
    """The task's records from values `[epochs][replicas]` of each tag (written with _ for the dot)."""
    task = TaskSoFar(sums={"steps": np.array([9.0])})
    for epoch in range(len(next(iter(tags.values())))):
        values = {tag: np.array(epochs[epoch]) for tag, epochs in tags.items()}
        task.add_evaluations(
            [Record(epoch, 0, f"evaluation/{tag.replace('_', '.')}", value) for tag, value in values.items()]
        )
    return {record.tag: record.values.tolist() for record in task.records(length=9, step=9, task=0)}


def test_the_best_epoch_of_each_replica_is_the_highest_accuracy_and_the_lowest_loss():
    found = after_epochs(accuracy_test=[[0.5, 0.7], [0.6, 0.4]], loss_test=[[1.0, 3.0], [2.0, 1.5]])
    assert found == {"task/best_accuracy.test": [0.6, 0.7], "task/best_loss.test": [1.0, 1.5]}


def test_validation_selects_the_first_of_the_best_epochs():
    found = after_epochs(
        accuracy_validation=[[0.3, 0.9], [0.8, 0.1], [0.8, 0.2]], accuracy_test=[[0.5, 0.6], [0.4, 0.7], [0.9, 0.8]]
    )
    assert found["task/selected_accuracy.test"] == [0.4, 0.6]
    assert found["task/selected_accuracy.validation"] == found["task/best_accuracy.validation"] == [0.8, 0.9]
    assert found["task/best_accuracy.test"] == [0.9, 0.8]


def test_a_replica_that_turns_non_finite_keeps_what_it_had_and_other_tags_are_passed_by():
    found = after_epochs(
        accuracy_validation=[[0.3], [np.nan]], accuracy_test=[[0.5], [np.nan]], classes_test=[[1.0], [1.0]]
    )
    assert found["task/selected_accuracy.test"] == found["task/best_accuracy.test"] == [0.5]
    assert not any("classes" in tag for tag in found)


def test_online_means_are_over_the_whole_task_and_a_replica_frozen_within_it_has_none():
    task = TaskSoFar()
    task.add_window({"steps": np.array([2.0, 2.0]), "loss": np.array([2.0, 4.0]), "accuracy": np.array([1.0, 0.0])})
    task.add_window({"steps": np.array([1.0, 0.0]), "loss": np.array([4.0, 0.0]), "accuracy": np.array([1.0, 0.0])})
    found = {record.tag: record.values.tolist() for record in task.records(length=3, step=3, task=0)}
    np.testing.assert_equal(found, {"task/online_loss": [2.0, np.nan], "task/online_accuracy": [2 / 3, np.nan]})
