"""What workers and driver tell each other through the run channel, without Ray: the actor's class in this process."""

from largebatch.jobs.launch.on_ray.run_channel import RunChannel


def test_messages_are_taken_once() -> None:
    channel = RunChannel()
    channel.put([{"notice": "one"}])
    channel.put([{"notice": "two"}])
    assert channel.take().messages == [{"notice": "one"}, {"notice": "two"}]
    assert channel.take().messages == []


def test_a_request_to_stop_holds_for_all_groups_and_one_to_pause_for_its_own() -> None:
    channel = RunChannel()
    channel.new_group()
    assert not channel.put([])
    channel.ask_to_pause()
    assert channel.put([])
    assert channel.requests() == (False, True)
    channel.new_group()
    assert not channel.put([])
    channel.ask_to_stop()
    channel.new_group()
    assert channel.put([])
    assert channel.begin(), "a group that comes afterwards ends at once"
    assert channel.requests() == (True, False)


def test_each_group_begins_and_ends_for_itself() -> None:
    channel = RunChannel()
    first = channel.new_group()
    channel.occupies("cores")
    channel.begin()
    channel.trains()
    assert channel.take()[1:] == (None, True, True, "cores")
    second = channel.new_group()
    assert channel.take()[1:] == (None, False, True, None), "what was trained stays"
    channel.finish(first, {"paused": "too late"})
    assert channel.take().outcome is None
    channel.finish(second, {"summary": {}})
    assert channel.take().outcome == {"summary": {}}
