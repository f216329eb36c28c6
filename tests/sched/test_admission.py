from penstock.sched.admission import FIRST_GUESS_TOKENS, OutputLengths


def test_the_percentile_follows_the_last_outputs():
    lengths = OutputLengths()
    assert lengths.predicted == FIRST_GUESS_TOKENS
    for n in range(1, 101):
        lengths.add(n)
    assert lengths.predicted == 81
    for _ in range(512):
        lengths.add(7)
    assert lengths.predicted == 7
