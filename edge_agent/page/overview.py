"""What the agent sees now, as HTML: escaped here and nowhere else."""

from __future__ import annotations

from html import escape

from edge_agent.annotate import Episode, Journal
from edge_agent.page.desk import Shown
from models.contract.base import Stream
from models.contract.events import RemainingLife
from models.contract.health import AssetHealth
from models.form.speech import SENSORS, sensor_says


def overview(agent: Shown, journal: Journal, assets: dict[str, AssetHealth]) -> str:
    s = agent.status()
    waiting = sum(s["waiting"].values())
    people = s["waiting"].get(Stream.ANNOTATION, 0)
    link = {True: "connected", False: "not connected", None: "no broker configured"}[s["connected"]]
    stations = [
        (
            "Windows scored",
            sum(a.windows for a in assets.values()),
            f"model {s['model']['name']} {s['model']['version']}",
        ),
        ("Open alarms", sum(a.alarm for a in assets.values()), f"of {len(assets)} machines"),
        ("Annotations taken", journal.annotated(), f"{people} wait for the server"),
        ("Waiting to be stored", waiting, link),
    ]
    tiles = "".join(
        f'<li><span class="name">{name}</span><strong>{n:,}</strong><span class="more">{escape(more)}</span></li>'
        for name, n, more in stations
    )
    switch = s["switch"]
    problem = f'<p class="bad" role="alert">Model: {escape(switch["problem"])}</p>' if switch["problem"] else ""
    return f"""<ul class="stations">{tiles}</ul>{problem}
<h2>Machines</h2><p class="soft"><a href="/labels">QR labels to print</a></p>
<div class="cards">{"".join(_card(name, a) for name, a in assets.items())}</div>
<h2>Alarms</h2>{_alarms(journal)}"""


def _card(name: str, asset: AssetHealth) -> str:
    chips = {
        "learning": ("wait", "learning what is normal"),
        "waiting": ("", "no samples yet"),
        "scoring": ("good", "normal"),
    }
    kind, word = ("bad", "alarm") if asset.alarm else chips.get(asset.state, ("", asset.state))
    score = asset.score if asset.score is not None else 0.0
    dropped = ", ".join(f"{n} {cause.replace('_', ' ')}" for cause, n in asset.dropped.items()) or "nothing dropped"
    last = f"{asset.last_sample_at:%H:%M:%S} UTC" if asset.last_sample_at else "never"
    left = f"<p>{escape(remaining(asset.life))}</p>" if asset.life else ""
    return f"""<section class="card"><h3>{escape(name)} <span class="chip {kind}">{word}</span></h3>
<meter min="0" max="1" low="0.4" high="0.5" optimum="0" value="{score:.3f}" aria-label="anomaly score"></meter>
<p class="soft">score {score:.2f} · {asset.windows:,} windows · last sample {last} · {escape(dropped)}</p>{left}
<a class="button quiet" href="/annotate?asset={escape(name)}">Report without an alarm</a></section>"""


def remaining(life: RemainingLife) -> str:
    """In words: about 57 cycles left, 41 to 80 with 90 %."""
    if life.estimate >= life.cap:
        return f"more than {max(life.low, 0):.3g} {life.unit} left, with {life.coverage:.0%}"
    high = f"{life.high:.3g}" if life.high is not None else f"more than {life.cap:.3g}"
    return f"about {life.estimate:.3g} {life.unit} left, {life.low:.3g} to {high} with {life.coverage:.0%}"


def _alarms(journal: Journal) -> str:
    episodes = journal.episodes(25)
    if not episodes:
        return '<p class="soft">None so far.</p>'
    rows = "".join(
        f"<tr><td>{e.event.opened_at:%d %b %H:%M:%S}</td><td>{escape(e.event.asset)}</td>"
        f'<td><span class="chip {"bad" if e.open else ""}">{"open" if e.open else "cleared"}</span></td>'
        f'<td class="n">{e.score:.2f}</td><td class="wide soft">{escape(says(e))}</td>'
        f'<td><a class="button" href="/annotate/{e.event.event_id}">What was it?</a></td></tr>'
        for e in episodes
    )
    return f"""<div class="scroll alarms"><table><thead><tr><th>Since (UTC)</th><th>Machine</th><th>State</th>
<th class="n">Score</th><th>What the model says</th><th></th></tr></thead><tbody>{rows}</tbody></table></div>"""


def says(episode: Episode) -> str:
    event = episode.event
    if event.sensors and event.family == SENSORS:
        return " ".join(sensor_says(each, "en") for each in event.sensors)
    drivers = ", ".join(f"{d.feature} {d.deviation:.0f} usual spreads off" for d in event.drivers[:2])
    kind = f", looks like {event.fault_class}" if event.fault_class else ""
    return f"Score {episode.score:.2f} (alarm from {event.threshold:.2f}){kind}. {drivers}"
