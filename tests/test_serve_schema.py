"""Generated requests against the OpenAPI document: no defect, and no answer that the document does not promise."""

from __future__ import annotations

import json
import warnings
from contextlib import suppress

import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis.errors import Unsatisfiable
from tests.serving import make_arrays, make_shop, serving

from bitfuse.serve import schemas
from bitfuse.serve.app import create_app
from bitfuse.serve.settings import Settings

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # of its own dependencies
    import schemathesis
    from schemathesis import GenerationMode
    from schemathesis.specs.openapi import checks

pytestmark = pytest.mark.filterwarnings("ignore::bitfuse.errors.DataWarning", "ignore::DeprecationWarning")
CHECKS = [
    checks.status_code_conformance,
    checks.content_type_conformance,
    checks.response_schema_conformance,
    checks.response_headers_conformance,
]
NDJSON = "application/x-ndjson"


@schemathesis.serializer(NDJSON)
def lines(_, value):
    rows = value if isinstance(value, list) else [value]
    return "\n".join(json.dumps(row) for row in rows).encode("utf-8", "replace")


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    root = tmp_path_factory.mktemp("schema")
    make_shop(root / "shop")
    make_arrays(root / "arrays")
    places, limits = {"shop": root / "shop", "arrays": root / "arrays"}, Settings()
    app = create_app(places, limits)
    document = app.openapi()
    app.state.shelf.close()
    with serving(places, limits) as (_, port):
        yield document, f"http://127.0.0.1:{port}"


def generated(document, url: str, cases: int) -> dict[int, int]:
    """Run so many good and as many bad requests of every operation; how many of each status."""
    for path in document["paths"].values():  # most cases should get past the names
        for operation in path.values():
            for parameter in operation.get("parameters", ()):
                if parameter["name"] == "collection":
                    parameter["schema"] = {"enum": ["shop", "arrays", "nothing"]}
                if parameter["name"] == "id":
                    parameter["schema"] = {"anyOf": [{"enum": ["item 1", "row 1"]}, parameter["schema"]]}
    bulk = document["paths"]["/v1/collections/{collection}/bulk"]["post"]["requestBody"]["content"][NDJSON]
    bulk["schema"] = {"type": "array", "items": schemas.BulkLine.model_json_schema()}
    schema = schemathesis.openapi.from_dict(document)
    statuses: dict[int, int] = {}
    for result in schema.get_all_operations():
        operation = result.ok()
        run(operation.as_strategy(generation_mode=GenerationMode.POSITIVE), url, cases, statuses)
        with suppress(Unsatisfiable):  # what takes no argument cannot be asked wrongly
            run(operation.as_strategy(generation_mode=GenerationMode.NEGATIVE), url, cases, statuses)
    return statuses


def run(strategy, url: str, cases: int, statuses: dict[int, int]) -> None:
    @settings(
        max_examples=cases, deadline=None, derandomize=True, database=None, phases=[Phase.generate],
        suppress_health_check=list(HealthCheck),
    )  # fmt: skip
    @given(case=strategy)
    def send(case):
        answer = case.call(base_url=url)
        statuses[answer.status_code] = statuses.get(answer.status_code, 0) + 1
        assert answer.status_code not in (500, 502, 504), f"{case.as_curl_command()}\n{answer.text}"
        case.validate_response(answer, checks=CHECKS)

    send()


def test_a_few_generated_requests(server):
    statuses = generated(*server, cases=2)
    assert sum(statuses.values()) >= 50
    assert {200, 404, 422} <= set(statuses)


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_two_thousand_generated_requests(server):
    statuses = generated(*server, cases=100)
    assert sum(statuses.values()) >= 2000, statuses
