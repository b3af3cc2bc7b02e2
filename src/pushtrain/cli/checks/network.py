"""What `pushtrain doctor` looks at for the jobs' network: whether the owner's rule can be enforced here."""

from collections.abc import Iterator

from pushtrain.cli.checks.finding import Finding
from pushtrain.core.settings import Settings
from pushtrain.core.values.isolation import JobNetwork
from pushtrain.plumbing.disk.state import StateFolder


def network(folder: StateFolder, settings: Settings) -> Iterator[Finding]:
    """Make an uplink, where the rule needs one."""
    rule = settings.rules.network
    if rule is JobNetwork.FULL:
        text = "jobs reach whatever this machine reaches, the owner's network too (`full`)"
        yield Finding("network", "note", text, "docs/network.md tells what `internet` would keep out.")
        return
    if rule is JobNetwork.NONE:
        yield Finding("network", "ok", "jobs reach nothing (`none`)")
        return
    from pushtrain.plumbing.isolation.uplink import Uplinks  # lazy: only doctor needs it here

    folder.isolation.mkdir(parents=True, exist_ok=True)
    uplinks = Uplinks(folder.isolation)
    why, mend = uplinks.missing()
    uplinks.close()
    if why:
        text = f"the rule `network` (`{rule}`) cannot be enforced, and jobs are refused. {why}"
        yield Finding("network", "wrong", text, mend)
    else:
        yield Finding("network", "ok", f"jobs reach public addresses and nothing else (`{rule}`)")
