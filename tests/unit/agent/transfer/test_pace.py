"""How often a Copy tells how far it is."""

from manual_clock import ManualClock

from kubeferry.agent.transfer.pace import Pace
from kubeferry.api.task import TaskProgress

HOUR = 3600


def told(*moves: tuple[float, int], total: int = 100) -> list[tuple[float, int, int | None]]:
    """Second, bytes and rate of each word, where so many bytes were sent by such a second."""
    clock, words = ManualClock(), []
    begun = clock.time()

    def tell(progress: TaskProgress) -> None:
        assert progress.bytes_total == total
        words.append((clock.time() - begun, progress.bytes_done, progress.rate))

    pace = Pace(clock.time, tell)
    for second, done in moves:
        clock.advance(second - (clock.time() - begun))
        pace(done, total, done)
    return words


def test_between_two_words_are_two_seconds_but_before_the_last() -> None:
    assert told((0, 0), (1, 10), (2, 20), (3, 30), (4, 40), (4.5, 100)) == [
        (0, 0, None),
        (2, 20, 10),
        (4, 40, 10),
        (4.5, 100, 120),
    ]


def test_and_a_hundredth_of_the_data() -> None:
    assert told((0, 0), (2, 99), (3, 100), (4, 101), (5, 199), (6, 200), total=10_000) == [(0, 0, None), (3, 100, 33), (6, 200, 33)]


def test_but_after_ten_seconds_any_byte_is_worth_a_word() -> None:
    assert told((0, 0), (9, 1), (10, 2), (19, 3), (20, 4), total=HOUR * 1000) == [(0, 0, None), (10, 2, 0), (20, 4, 0)]


def test_while_no_byte_moves_signs_of_life_are_told() -> None:
    words: list[TaskProgress] = []
    clock = ManualClock()
    pace = Pace(clock.time, words.append)
    for done in (0, 5, 5, 5, 5, 5):
        pace(done, 5, done)
        clock.advance(1)
    assert [(word.bytes_done, word.signs) for word in words] == [(0, 0), (5, 0), (5, 2), (5, 4)]
    assert words[-1].rate == 0


def test_of_a_word_at_the_same_moment_no_rate_is_known() -> None:
    assert told((0, 0), (0, 100)) == [(0, 0, None), (0, 100, None)]


def test_the_first_word_comes_at_once_whatever_it_says() -> None:
    assert told((7, 3), total=0) == [(7, 3, None)]
