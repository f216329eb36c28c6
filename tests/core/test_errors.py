import penstock.core.errors as errors


def _classes() -> list[type[errors.PenstockError]]:
    found, queue = [], [errors.PenstockError]
    while queue:
        cls = queue.pop()
        found.append(cls)
        queue.extend(cls.__subclasses__())
    return found


def test_every_error_has_the_contracts_body() -> None:
    for cls in _classes():
        body = cls("x is 5, the limit is 4.", param="x", hint="lower x.").body()["error"]
        assert set(body) == {"message", "type", "param", "code"}
        assert body["message"] == "x is 5, the limit is 4. hint: lower x."
        assert body["code"] is None or isinstance(body["code"], str)


def test_the_tree_drawn_in_the_docstring_is_the_tree() -> None:
    drawn = errors.__doc__ or ""
    for cls in _classes():
        assert cls.__name__ in drawn
        lines = [line for line in drawn.splitlines() if f" {cls.__name__} " in line + " " and str(cls.status) in line]
        if cls not in (errors.PenstockError, errors.ModelFileError, errors.ConfigError):
            assert lines, f"{cls.__name__} stands with another status than {cls.status}"


def test_user_mistakes_are_4xx_and_ours_are_5xx() -> None:
    for cls in _classes():
        if issubclass(cls, errors.InvalidRequest):
            assert 400 <= cls.status < 500
            assert cls.type == "invalid_request_error"
        if issubclass(cls, errors.ServerError):
            assert cls.status >= 500
            assert cls.type == "server_error"
