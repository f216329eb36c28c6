"""A step in the making starts empty and knows its cost."""

from penstock.sched.cost import StepFeatures
from penstock.sched.draft import Draft


def test_the_cost_of_a_step_is_what_has_been_put_in():
    draft = Draft(3, 16)
    assert (draft.step, draft.left, draft.forced, draft.rows) == (3, 16, True, [])
    draft.prefill_tokens, draft.decode_rows, draft.kv_tokens = 5, 2, 70
    assert draft.features == StepFeatures(5, 2, 70)
