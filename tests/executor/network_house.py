"""Be an executor on the machine of tests/owners_network.py, and run jobs; each line of input is one.

`python network_house.py FOLDER RULE` serves FOLDER with the rule `network`. A line is a JSON object with a
job's fields; the answer is one with its outcome, reason, detail and log. The first line tells of the card.
"""

import asyncio
import json
import sys
from pathlib import Path
from typing import Any

from executor_house import House, done

from pushtrain.adapters.sandboxes import Ground
from pushtrain.adapters.sandboxes.sandbox import Bubblewrap
from pushtrain.core.errors import Forbidden
from pushtrain.core.owner.rules import Rules
from pushtrain.core.values.isolation import Isolation, JobNetwork
from pushtrain.executor.service import ExecutorService
from pushtrain.wiring.network import granted, way_out


async def answered(house: House, service: ExecutorService, job: dict[str, Any]) -> dict[str, object]:
    try:
        run = await done(service, house.send(service, **job), seconds=60)
    except Forbidden as error:
        return {"refused": str(error)}
    return {
        "outcome": run.outcome,
        "reason": run.reason,
        "detail": run.detail,
        "log": house.result(run, "log.txt"),
    }


async def main(folder: Path, rule: JobNetwork) -> None:
    house = House(folder)
    house.state.create()
    house.sandbox = Bubblewrap(Ground(house.state.isolation))
    house.access = granted(Rules(network=rule), Isolation.SANDBOX, way_out(house.state))
    attacks = Path(__file__).parent.parent / "network_attacks.py"
    house.commit({attacks.name: attacks.read_text()})
    async with house.running() as service:
        tell({"card": service.card().network, "why": house.access.why, "mend": house.access.mend})
        while line := await asyncio.to_thread(sys.stdin.readline):
            tell(await answered(house, service, json.loads(line)))


def tell(what: object) -> None:
    print(json.dumps(what), flush=True)


if __name__ == "__main__":
    asyncio.run(main(Path(sys.argv[1]), JobNetwork(sys.argv[2])))
