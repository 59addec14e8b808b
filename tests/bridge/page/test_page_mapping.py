"""MIDI controllers and the lines to copy, on the page in a real headless Chromium; the controllers are stand-ins."""

import re

import pytest

from bridge.page.files import WEB
from core.params import SPECS
from tests.bridge.page.scene import HOLD_WHAT_IS_TOLD, Scene, needs_browser

pytestmark = needs_browser

# The part of Web MIDI that a page sees: one controller whose messages the test sends by midi.play(...).
STAND_IN = """
    globalThis.midi = {
        asked: 0, inputs: new Map(), access: null,
        plug(name) {
            this.inputs.set(name, { name, state: "connected", onmidimessage: null });
            this.access?.onstatechange?.({});
        },
        play(...data) {
            for (const input of this.inputs.values()) input.onmidimessage?.({ data: new Uint8Array(data) });
        },
    };
    navigator.requestMIDIAccess = async () => {
        midi.asked += 1;
        midi.access = { inputs: midi.inputs, onstatechange: null };
        return midi.access;
    };
    midi.plug("nanoKONTROL");
"""
KNOB, KEY, BEND, PROGRAM = 0xB0, 0x90, 0xE0, 0xC0
SAID = "document.querySelector('#midi-said').textContent"


def of(name, selector):
    return f"document.querySelector('[data-name={name}] {selector}')"


async def ready(page):
    await page.until(f"page.controls.size === {len(SPECS)}")
    await page.until("'paused' in page.values")


async def learn(page, name, *message):
    """Put a knob on a parameter, as a person does."""
    await page.evaluate(f"{of(name, '.mapping')}.hidden && {of(name, '[aria-controls$=mapping]')}.click()")
    await page.evaluate(f"page.controls.get('{name}').mapping.learn.click()")
    await page.until(f"page.midi.learning?.spec.name === '{name}'")
    await page.evaluate(f"midi.play({', '.join(map(str, message))})")
    assert await page.evaluate("page.midi.learning") is None


def test_every_parameter_learns_a_knob_and_follows_it(on_the_page):
    """A knob at its end sets the end of the range, whatever the kind of the parameter."""

    async def scenario(scene, page):
        await ready(page)
        await page.evaluate(STAND_IN)
        for number, name in enumerate(SPECS):
            await learn(page, name, KNOB, number, 1)
        assert await page.evaluate("midi.asked") == 1
        assert await page.evaluate("Object.keys(page.midi.knobs).length") == len(SPECS)
        for end in (127, 0):
            for number in range(len(SPECS)):
                await page.evaluate(f"midi.play({KNOB}, {number}, {end})")
            await scene.until(lambda end=end: _at_end(scene.live.current, end == 127))
        assert await page.evaluate(of("steps", ".knob") + ".textContent") == "knob 5, channel 1"

    assert on_the_page(scenario) == []


def _at_end(params, high):
    for name, spec in SPECS.items():
        value = getattr(params, name)
        if spec.kind in ("float", "int"):
            wide = spec.kind == "int" and spec.high - spec.low > 16383
            if value != ((127 if high else 0) if wide else (spec.high if high else spec.low)):
                return False
        elif spec.kind == "choice":
            if value != spec.choices[-1 if high else 0]:
                return False
        elif spec.kind == "bool":
            if value is not high:
                return False
        elif spec.kind == "ints" and value != (int(spec.high if high else spec.low),):
            return False
    # Texts go from the first example to the prompt of longest ago.
    return (params.prompt == "wax style, green box") is not high


def test_keys_switch_and_go_through_choices_and_wheels_are_fine(on_the_page):
    async def scenario(scene, page):
        await ready(page)
        await page.evaluate(STAND_IN)
        for name, key in (("paused", 60), ("guidance", 61), ("prompt", 62), ("seed", 63)):
            await learn(page, name, KEY, key, 100)
        await learn(page, "strength", BEND, 0, 64)
        for wanted in (True, False):
            await page.evaluate(f"(midi.play({KEY}, 60, 90), midi.play({KEY}, 60, 0))")
            await scene.until(lambda wanted=wanted: scene.live.current.paused is wanted)
        for wanted in (*SPECS["guidance"].choices[1:], "none"):
            await page.evaluate(f"midi.play({KEY}, 61, 90)")
            await scene.until(lambda wanted=wanted: scene.live.current.guidance == wanted)
        await page.evaluate(f"midi.play({KEY}, 62, 90)")
        await scene.until(lambda: scene.live.current.prompt == "wax style, green box")
        await page.evaluate(f"midi.play({KEY}, 63, 90)")
        await scene.until(lambda: scene.live.current.seed > 127)
        # 14 bits: between two places of a knob with 127.
        await page.evaluate(f"midi.play({BEND}, 1, 64)")
        await scene.until(lambda: scene.live.current.strength == round(0.02 + 0.98 * 8193 / 16383, 4))
        # Clocks, modes of the instrument and other channels are no knobs.
        revision = scene.live.revision
        await page.evaluate(f"(midi.play(0xF8), midi.play({KNOB}, 123, 0), midi.play({BEND} + 1, 0, 0))")
        await page.evaluate("new Promise((done) => setTimeout(done, 200))")
        assert scene.live.revision == revision

    assert on_the_page(scenario) == []


def test_keys_and_knobs_go_on_from_what_was_sent_although_the_host_has_not_told_it_yet(on_the_page):
    async def scenario(scene, page):
        await ready(page)
        await page.evaluate(STAND_IN)
        for name, key in (("paused", 60), ("guidance", 61)):
            await learn(page, name, KEY, key, 100)
        await learn(page, "similarity_filter", KNOB, 1, 1)
        await page.evaluate(HOLD_WHAT_IS_TOLD)
        for wanted in (True, False, True):
            await page.evaluate(f"midi.play({KEY}, 60, 90)")
            await scene.until(lambda wanted=wanted: scene.live.current.paused is wanted)
        for wanted in SPECS["guidance"].choices[1:3]:
            await page.evaluate(f"midi.play({KEY}, 61, 90)")
            await scene.until(lambda wanted=wanted: scene.live.current.guidance == wanted)
        # A knob that is turned there and back is where it was.
        for wanted, place in ((True, 127), (False, 0)):
            await page.evaluate(f"midi.play({KNOB}, 1, {place})")
            await scene.until(lambda wanted=wanted: scene.live.current.similarity_filter is wanted)
        # What somebody else sets afterwards is what a key goes on from.
        scene.live.set("paused", False)
        await page.evaluate("letGo()")
        await page.until("page.values.paused === false && page.values.similarity_filter === false")
        await page.evaluate(f"midi.play({KEY}, 60, 90)")
        await scene.until(lambda: scene.live.current.paused is True)

    assert on_the_page(scenario) == []


def test_a_key_goes_on_from_what_is_in_force_where_the_host_refused(on_the_page):
    async def scenario(scene, page):
        await ready(page)
        await page.evaluate(STAND_IN)
        await learn(page, "guidance", KEY, 61, 100)
        # A host that knows less than it said.
        await page.evaluate("page.controls.get('guidance').spec.choices = ['none', 'no such thing', 'full']")
        await page.evaluate(f"midi.play({KEY}, 61, 90)")
        await page.until("document.querySelector('#notice').textContent.includes('no such thing')")
        await page.evaluate("page.controls.get('guidance').spec.choices = ['none', 'full']")
        await page.evaluate(f"midi.play({KEY}, 61, 90)")
        await scene.until(lambda: scene.live.current.guidance == "full")

    assert on_the_page(scenario) == []


def test_all_knobs_turned_at_once_stay_within_what_the_gateway_takes(on_the_page):
    """A thousand messages in a second, of eight knobs: the connection lives, and the last value of each counts."""

    async def scenario(scene, page):
        await ready(page)
        await page.evaluate(STAND_IN)
        numbers = [name for name, spec in SPECS.items() if spec.kind == "float"][:8]
        for number, name in enumerate(numbers):
            await learn(page, name, KNOB, number, 1)
        before = scene.live.revision
        await page.evaluate(f"""(async () => {{
            for (let value = 0; value < 128; value += 1) {{
                for (let knob = 0; knob < {len(numbers)}; knob += 1) midi.play({KNOB}, knob, value);
                await new Promise((done) => setTimeout(done, 8));
            }}
        }})()""")
        await scene.until(lambda: all(getattr(scene.live.current, name) == SPECS[name].high for name in numbers))
        assert scene.live.revision - before < 120
        assert await page.evaluate("document.querySelector('#connection').dataset.state") == "connected"
        for name in numbers:
            await page.until(f"{of(name, 'input[type=range]')}.value === '{SPECS[name].high:g}'")
        # Once its knob rests, a control shows what others set.
        scene.live.update({numbers[0]: SPECS[numbers[0]].low})
        await page.until(f"{of(numbers[0], 'input[type=range]')}.value === '{SPECS[numbers[0]].low:g}'")

    assert on_the_page(scenario) == []


def test_what_was_learned_is_kept_in_the_browser_and_can_be_forgotten(on_the_page):
    async def scenario(scene, page):
        await ready(page)
        await page.evaluate(STAND_IN)
        await learn(page, "strength", KNOB, 21, 5)
        await learn(page, "steps", KNOB, 22, 5)
        # Learned again, the newer knob counts.
        await learn(page, "steps", KNOB, 23, 5)
        await page.call("Page.addScriptToEvaluateOnNewDocument", source=STAND_IN)
        await page.call("Page.reload")
        await page.until(
            "globalThis.midi?.asked === 0 && document.querySelector('#connection')?.dataset.state === 'connected'"
        )
        await ready(page)
        # Nobody is asked for leave without a click.
        assert await page.evaluate(SAID) == "learned before; connect to use it again"
        await page.evaluate("document.querySelector('#midi-connect').click()")
        await page.until(f"{SAID} === 'connected: nanoKONTROL'")
        await page.evaluate("midi.plug('Launchpad')")
        await page.until(f"{SAID} === 'connected: nanoKONTROL, Launchpad'")
        await page.evaluate(f"(midi.play({KNOB}, 21, 127), midi.play({KNOB}, 22, 127))")
        await scene.until(lambda: scene.live.current.strength == 1.0)
        assert scene.live.current.steps == 1
        await page.evaluate("document.querySelector('#midi-list button').click()")
        assert await page.evaluate("Object.keys(page.midi.knobs).join()") == "steps"
        for damaged in ("{", "[3]", "null", '{"steps": 5}', '{"no_such": "knob 1, channel 1"}'):
            await page.evaluate(f"localStorage.setItem('frameloom.midi', {damaged!r})")
            await page.evaluate(f"(page.midi.read(), midi.play({KNOB}, 1, 3))")
        await page.evaluate("localStorage.clear()")

    assert on_the_page(scenario) == []


def test_a_program_change_recalls_a_preset(on_the_page, tmp_path):
    async def scenario(scene, page):
        await ready(page)
        await page.evaluate(STAND_IN)
        await page.evaluate("document.querySelector('#midi-connect').click()")
        for seed, name in ((5, "one"), (6, "two")):
            scene.live.update({"seed": seed})
            scene.presets.save(name)
        await page.until("page.presets.presets.length === 2")
        await page.evaluate(f"midi.play({PROGRAM}, 0)")
        await scene.until(lambda: scene.live.current.seed == 5)

    assert on_the_page(scenario, scene=Scene(shelf=tmp_path)) == []


@pytest.mark.parametrize(
    "script, told",
    [
        ("Navigator.prototype.requestMIDIAccess = undefined", "this browser has no MIDI"),
        (
            "(Navigator.prototype.requestMIDIAccess = undefined,"
            " Object.defineProperty(globalThis, 'isSecureContext', { value: false }))",
            "to https pages and to this machine only",
        ),
        ("navigator.requestMIDIAccess = async () => { throw new Error('ALSA is gone'); }", "no MIDI: ALSA is gone"),
    ],
)
def test_without_midi_there_is_a_sentence_where_it_was_asked_for(on_the_page, script, told):
    async def scenario(scene, page):
        await ready(page)
        await page.evaluate(f"void ({script})")
        await page.evaluate("page.controls.get('seed').mapping.button.click()")
        await page.evaluate("page.controls.get('seed').mapping.learn.click()")
        await page.until(f"{of('seed', '.mapping')}.textContent.includes({told!r})")
        assert told in await page.evaluate(SAID)
        assert await page.evaluate("page.midi.learning") is None

    assert on_the_page(scenario) == []


def test_a_refused_permission_is_told(on_the_page):
    """Chromium's own refusal, no stand-in."""

    async def scenario(scene, page):
        await ready(page)
        await page.call("Browser.setPermission", permission={"name": "midi"}, setting="denied")
        await page.evaluate("document.querySelector('#midi-connect').click()")
        await page.until(f"{SAID}.startsWith('MIDI was not allowed')")
        await page.call("Browser.resetPermissions")

    assert on_the_page(scenario) == []


def test_the_lines_to_copy_are_those_that_others_understand(on_the_page):
    """Against the generated C# class, and by running the JavaScript."""
    source = (WEB.parent / "unity/Packages/org.frameloom.unity/Runtime/FrameloomParams.cs").read_text()

    async def scenario(scene, page):
        await ready(page)
        wanted = {
            "prompt": 'say "ink\\n"',
            "strength": 0.3,
            "guidance": "self-negative",
            "t_index": (18, 26),
            "paused": True,
        }
        scene.live.update(wanted)
        await page.until("page.values.paused === true")
        lines = {}
        for name in SPECS:
            await page.evaluate(f"{of(name, '[aria-controls$=mapping]')}.click()")
            lines[name] = await page.evaluate(
                f"[...document.querySelectorAll('[data-name={name}] .line code')].map((c) => c.textContent)"
            )
            osc, csharp, javascript, midi = lines[name]
            assert f'to.Add("{osc}", ' in source and midi == "no knob yet"
            field, value = re.fullmatch(r"control\.parameters\.(\w+) = (.*);", csharp).groups()
            declared, kind, default = re.search(rf"public ([\w\[\]]+) {field} = (.*);", source), None, None
            kind, default = declared.groups()
            if name not in wanted:
                assert value == default, name
            elif kind.startswith("Frameloom"):
                assert value == "FrameloomGuidance.SelfNegative" and "SelfNegative," in source
        assert lines["prompt"][1] == 'control.parameters.prompt = "say \\"ink\\\\n\\"";'
        assert lines["t_index"][1] == "control.parameters.tIndex = new[] { 18, 26 };"
        assert lines["strength"][1] == "control.parameters.strength = 0.3f;"
        # The defaults are back; the lines bring the values again.
        scene.live.update({name: SPECS[name].default for name in wanted})
        await page.evaluate(
            "import('/frameloom-feed.js').then(({ Feed }) => { globalThis.feed = new Feed(location.href); })"
        )
        await page.until("globalThis.feed?.values.paused === false")
        for name in wanted:
            await page.evaluate(lines[name][2])
        await scene.until(lambda: all(getattr(scene.live.current, name) == value for name, value in wanted.items()))
        # And they follow.
        await page.until(f"{of('strength', '.line code')}.closest('.mapping').textContent.includes('0.3f')")
        await page.evaluate("feed.close()")

    assert on_the_page(scenario) == []


@pytest.mark.parametrize("clipboard", ["granted", "denied"])
def test_a_line_is_copied_with_and_without_a_clipboard(on_the_page, clipboard):
    async def scenario(scene, page):
        await ready(page)
        await page.call("Browser.setPermission", permission={"name": "clipboard-write"}, setting=clipboard)
        await page.evaluate(f"{of('steps', '[aria-controls$=mapping]')}.click()")
        await page.evaluate(f"{of('steps', '.line button')}.focus()")
        await page.press("Enter", 13, "\r")
        await page.until(f"{of('steps', '.line button')}.textContent === 'copied'")
        await page.evaluate("(() => { const b = document.querySelector('#p-prompt'); b.focus(); b.select(); })()")
        await page.call("Input.dispatchKeyEvent", type="keyDown", key="v", commands=["paste"])
        assert await page.evaluate("document.querySelector('#p-prompt').value") == "/steps"
        await page.call("Browser.resetPermissions")

    assert on_the_page(scenario) == []
