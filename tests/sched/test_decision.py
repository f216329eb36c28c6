from penstock.core import NO_OUTPUT, SAMPLE, FutureToken, PageCopy, Row, StepPlan
from penstock.sched import decision_hash

ROW = Row(0, 4, (7,), ((1,), ()), 0, SAMPLE)
PLAN = StepPlan(3, (), (ROW,), (PageCopy(0, 1, 2),), (5,))


def test_every_decision_counts_and_the_chain_does():
    plans = [
        PLAN,
        PLAN._replace(step=4),
        PLAN._replace(copies=()),
        PLAN._replace(released_slots=()),
        *(
            PLAN._replace(rows=(row,))
            for row in (
                ROW._replace(slot=1),
                ROW._replace(tokens=(8,)),
                ROW._replace(tokens=FutureToken(0, 7)),
                ROW._replace(new_pages=((), (1,))),
                ROW._replace(output=NO_OUTPUT),
            )
        ),
    ]
    hashes = {decision_hash(b"", plan) for plan in plans} | {decision_hash(b"x", PLAN)}
    assert len(hashes) == len(plans) + 1
    assert decision_hash(b"", PLAN) == decision_hash(b"", StepPlan(*PLAN))
