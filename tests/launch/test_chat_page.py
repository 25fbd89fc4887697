"""The page in a real browser, headless Chromium, against the real server.

Keys and compositions are the browser's own: they go in through the DevTools protocol, below the page.
With `MALMOI_SCREENSHOT=FILE.png` the last test renews README's picture.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import uvicorn
from playwright.sync_api import Browser, CDPSession, Page, expect, sync_playwright

from launch.chat import engine as engine_module
from launch.chat.dialogue import Session, load
from launch.chat.engine import Engine
from launch.chat.listener import bind
from launch.chat.sampling import Sampling
from launch.chat.server import create_app

pytestmark = pytest.mark.thorough

NAMES = ("chromium", "chromium-browser", "google-chrome", "chrome")
PHONE = {"width": 390, "height": 840}
DESK = {"width": 1180, "height": 840}
expect.set_options(timeout=30_000)


def program() -> str:
    """Chromium, installed where it is not there and may be; skips elsewhere."""
    for name in NAMES:
        if found := shutil.which(name):
            return found
    if os.geteuid() != 0 or shutil.which("apt-get") is None:
        pytest.skip("needs Chromium: apt-get install chromium (this process may not install it)")
    command = ["apt-get", "install", "-y", "--no-install-recommends", "chromium", "fonts-nanum"]
    subprocess.run(["apt-get", "update"], capture_output=True, timeout=300)
    done = subprocess.run(command, capture_output=True, text=True, timeout=600)
    found = shutil.which("chromium")
    if done.returncode or found is None:
        pytest.skip(f"Chromium cannot be installed here: {done.stderr.strip()[-200:]}")
    return found


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    path = program()
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=path, args=["--no-sandbox"])
        yield browser
        browser.close()


@contextmanager
def serving(engines: dict[str, Engine], api_key: str | None = None) -> Iterator[str]:
    """A real server on a real port, in a thread."""
    listener = bind("127.0.0.1", 0)
    app = create_app(engines, api_key=api_key)
    server = uvicorn.Server(
        uvicorn.Config(app, log_level="warning", timeout_graceful_shutdown=2, lifespan="off")
    )
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]})
    thread.start()
    yield f"http://127.0.0.1:{listener.getsockname()[1]}/"
    server.should_exit = True
    thread.join()


@pytest.fixture(scope="module")
def url(engine: Engine) -> Iterator[str]:
    with serving({"tiny": engine, "other": engine}) as url:
        yield url


Open = Callable[..., Page]


@pytest.fixture
def open_page(browser: Browser, url: str) -> Iterator[Open]:
    """Opens the page in a browser of its own; a page that reports an error fails the test."""
    contexts, wrong = [], []

    def open_one(at: str = url, *, max_tokens: int | None = 8, **options: Any) -> Page:
        context = browser.new_context(**{"locale": "ko-KR", "viewport": DESK, **options})
        contexts.append(context)
        settings = {"temperature": 1, "seed": 3, "max_tokens": max_tokens}
        start = json.dumps({"settings": {k: v for k, v in settings.items() if v is not None}})
        context.add_init_script(f"localStorage.malmoi ??= {json.dumps(start)}")
        context.grant_permissions(["clipboard-read", "clipboard-write"])
        page = context.new_page()
        page.on("pageerror", lambda error: wrong.append(str(error)))
        page.on("dialog", lambda dialog: wrong.append(f"a dialog: {dialog.message}"))
        page.on("request", lambda request: _inside(request.url, at, wrong))
        page.goto(at)
        return page

    yield open_one
    for context in contexts:
        context.close()
    assert wrong == []


def _inside(address: str, url: str, wrong: list[str]) -> None:
    if not address.startswith((url, "data:", "blob:")):
        wrong.append(f"a request to {address}")


def say(page: Page, text: str) -> None:
    """Type a message, send it with Enter and wait until every reply to it is finished."""
    page.locator("#input").fill(text)
    page.locator("#input").press("Enter")
    finished(page)


def finished(page: Page) -> None:
    expect(page.locator(".reply.busy")).to_have_count(0)
    expect(page.locator("#go")).to_have_text("보내기")


def asked(page: Page) -> list[str]:
    return page.locator(".asked p.text").all_inner_texts()


# --------------------------------------------------------------------------------- talking


def test_a_message_is_answered_as_the_server_answers_it_and_kept_over_a_reload(
    open_page: Open, engine: Engine
) -> None:
    page = open_page(max_tokens=30)
    bodies: list[Any] = []
    page.on("request", lambda r: r.method == "POST" and bodies.append(r.post_data_json))
    say(page, "안녕 <b>하세요</b>")
    assert asked(page) == ["안녕 <b>하세요</b>"]
    assert bodies[0]["messages"] == [{"role": "user", "content": "안녕 <b>하세요</b>"}]
    assert (bodies[0]["model"], bodies[0]["seed"], bodies[0]["stream"]) == ("tiny", 3, True)
    said = page.evaluate("talk.turns[0].replies[0].content")
    whole = page.request.post(
        page.url + "v1/chat/completions",
        data=json.dumps({**bodies[0], "stream": False, "stream_options": None}),
    ).json()
    assert said == whole["choices"][0]["message"]["content"]
    shown = page.locator(".reply .text").inner_text()
    expect(page.locator(".figures")).to_contain_text("토큰/초")
    say(page, "그리고?")
    assert [m["role"] for m in bodies[1]["messages"]] == ["user", "assistant", "user"]
    assert bodies[1]["messages"][1]["content"] == said
    page.reload()
    assert asked(page) == ["안녕 <b>하세요</b>", "그리고?"]
    assert page.locator(".reply .text").first.inner_text() == shown


def test_stop_keeps_what_was_said_and_retry_and_edit_go_on_from_there(open_page: Open) -> None:
    page = open_page(max_tokens=None)
    page.evaluate("talk.settings.temperature = 2")
    for how in ("button", "Escape"):
        for seed in range(12):  # a random model may end by itself before it is stopped
            page.evaluate(f"talk.settings.seed = {seed}")
            page.locator("#input").fill("길게 말해 줘")
            page.locator("#input").press("Enter")
            # wait_for_function would need eval in the page, which its policy forbids
            while not page.evaluate(
                "talk.turns.at(-1)?.replies[0].content.length > 3 || !is_running(talk)"
            ):
                pass
            if how == "button" and page.locator("#go").inner_text() == "멈추기":
                page.locator("#go").click()
            elif how == "Escape":
                page.locator("#input").press("Escape")
            finished(page)
            if page.evaluate("talk.turns.at(-1).replies[0].stopped"):
                break
        assert page.evaluate("talk.turns.at(-1).replies[0].stopped")
    expect(page.locator(".figures").last).to_contain_text("멈췄습니다")
    turns = page.locator(".reply").count()

    page.evaluate("Object.assign(talk.settings, { max_tokens: 8, temperature: 1 })")
    page.get_by_role("button", name="다시").click()
    finished(page)
    expect(page.locator(".figures").last).to_contain_text("토큰")
    assert page.evaluate("talk.turns.at(-1).replies[0].tokens") <= 8
    assert page.locator(".reply").count() == turns

    page.get_by_role("button", name="고치기").first.click()
    field = page.get_by_label("보낸 메시지 고치기")
    expect(field).to_be_focused()
    expect(page.get_by_text("보내면 이 뒤의 대화는 지워집니다.")).to_be_visible()
    field.press("Escape")
    expect(page.get_by_role("button", name="고치기").first).to_be_focused()
    page.get_by_role("button", name="고치기").first.click()
    field.fill("짧게")
    field.press("Enter")
    finished(page)
    assert asked(page) == ["짧게"]
    expect(page.locator("#input")).to_be_focused()
    page.locator("#input").press("ArrowUp")
    expect(field).to_have_value("짧게")


def test_a_message_and_a_code_block_are_copied_as_they_were_written(open_page: Open) -> None:
    page = open_page()
    code = "def f(x):\n    return '<b>' * x"
    text = f"이렇게 **합니다**:\n\n```python\n{code}\n```\n"
    _load(page, [{"role": "user", "content": "코드"}, {"role": "assistant", "content": text}])
    page.get_by_role("button", name="코드 복사").click()
    assert page.evaluate("navigator.clipboard.readText()") == code
    expect(page.get_by_role("button", name="코드 복사")).to_have_text("복사했습니다")
    page.locator(".reply .foot-line").get_by_role("button", name="복사").click()
    assert page.evaluate("navigator.clipboard.readText()") == text
    page.locator(".asked").get_by_role("button", name="복사").click()
    assert page.evaluate("navigator.clipboard.readText()") == "코드"


def _load(page: Page, messages: list[dict[str, str]], **fields: Any) -> None:
    content = {"malmoi": "dialogue", "dialogues": [{"model": "tiny", "messages": messages}]}
    page.locator("#file").set_input_files(
        {
            "name": "talk.json",
            "mimeType": "application/json",
            "buffer": json.dumps(content | fields).encode(),
        }
    )
    expect(page.locator(".reply").first).to_be_visible()


# ---------------------------------------------------------------------------- conversations


def test_conversations_are_listed_renamed_exported_imported_and_deleted(
    open_page: Open, engine: Engine, tmp_path: Path
) -> None:
    page = open_page()
    say(page, "첫 대화")
    page.locator("#fresh").click()
    assert asked(page) == []
    say(page, "둘째 대화")
    titles = page.locator("#talks .open")
    expect(titles).to_have_text(["둘째 대화", "첫 대화"])
    titles.last.click()
    assert asked(page) == ["첫 대화"]

    page.get_by_role("button", name="대화 메뉴: 첫 대화").click()
    page.get_by_role("button", name="이름").click()
    devtools = page.context.new_cdp_session(page)
    compose(devtools, "이름")  # Enter in the middle of the composition: the name, whole and once
    press_enter(devtools, composing=True)
    commit(devtools, "이름")
    expect(titles).to_have_text(["둘째 대화", "이름"])

    page.get_by_role("button", name="대화 메뉴: 이름").click()
    with page.expect_download() as download:
        page.get_by_role("button", name="내보내기").click()
    assert download.value.suggested_filename == "이름.json"
    path = tmp_path / "talk.json"
    download.value.save_as(path)
    file = json.loads(path.read_text(encoding="utf-8"))
    assert file["malmoi"] == "dialogue"
    assert file["sampling"] == {"temperature": 1, "seed": 3, "max_tokens": 8, "top_p": 0.95}
    (dialogue,) = file["dialogues"]
    assert dialogue["model"] == "tiny"
    session = Session.over([engine], None, Sampling())
    load(session, path)  # as /load in the terminal does
    assert [turn["text"] for turn in session.turns] == [
        message["content"] for message in dialogue["messages"]
    ]
    assert (session.sampling.seed, session.sampling.max_tokens) == (3, 8)
    assert [m["role"] for m in dialogue["messages"]] == ["user", "assistant"]

    page.get_by_role("button", name="지우기").click()
    expect(page.locator("#sure")).to_contain_text("이름")
    page.locator("#sure").get_by_role("button", name="취소").click()
    page.locator("#talks").get_by_role("button", name="지우기").click()
    page.locator("#sure").get_by_role("button", name="지우기").click()
    expect(titles).to_have_text(["둘째 대화"])
    assert asked(page) == []

    page.locator("#file").set_input_files(path)
    expect(titles).to_have_text(["이름", "둘째 대화"])
    assert asked(page) == ["첫 대화"]
    assert page.locator(".reply .text").inner_text().strip()
    page.reload()
    expect(titles).to_have_count(2)
    (tmp_path / "bad.json").write_text('{"malmoi": "dialogue", "dialogues": 7}')
    page.locator("#file").set_input_files(tmp_path / "bad.json")
    expect(page.get_by_role("alert")).to_contain_text("bad.json")


def test_a_reply_goes_on_while_another_conversation_is_looked_at(open_page: Open) -> None:
    page = open_page(max_tokens=60)
    page.locator("#input").fill("먼저")
    page.locator("#input").press("Enter")
    page.locator("#fresh").click()
    expect(page.locator("#go")).to_have_text("보내기")
    say(page, "나중")
    assert asked(page) == ["나중"]
    page.locator("#talks .open").get_by_text("먼저").click()
    finished(page)
    assert page.locator(".reply .text").inner_text().strip()
    assert page.evaluate("[...talks.values()].map((one) => one.turns.length)") == [1, 1]
    assert page.title() == "먼저 · 말모이"


def test_what_is_kept_in_the_browser_but_broken_is_left_out(open_page: Open) -> None:
    page = open_page()
    say(page, "멀쩡한 대화")
    page.evaluate(
        """() => {
          localStorage["malmoi-talk-a"] = "{";
          localStorage["malmoi-talk-b"] = JSON.stringify({ id: "b", turns: [{ content: 7 }] });
          localStorage["malmoi-talk-c"] = "null";
        }"""
    )
    page.reload()
    expect(page.locator("#talks .open")).to_have_text(["멀쩡한 대화"])


# --------------------------------------------------------------------- Hangul and the Enter key


def compose(devtools: CDPSession, text: str) -> None:
    """An input method shows `text` as being composed."""
    where = {"selectionStart": len(text), "selectionEnd": len(text)}
    devtools.send("Input.imeSetComposition", {"text": text, **where})


def commit(devtools: CDPSession, text: str) -> None:
    """The input method ends the composition with `text`."""
    devtools.send("Input.insertText", {"text": text})


def press_enter(devtools: CDPSession, *, composing: bool = False, modifiers: int = 0) -> None:
    code = 229 if composing else 13
    key = {"key": "Enter", "code": "Enter", "windowsVirtualKeyCode": code, "modifiers": modifiers}
    text = {} if composing else {"text": "\r"}
    devtools.send(
        "Input.dispatchKeyEvent", {"type": "rawKeyDown" if composing else "keyDown", **key, **text}
    )
    devtools.send("Input.dispatchKeyEvent", {"type": "keyUp", **key})


@pytest.mark.parametrize("order", ["enter once", "enter twice", "composition ends first"])
def test_enter_while_a_syllable_is_composed_sends_the_whole_message_once(
    open_page: Open, order: str
) -> None:
    page = open_page(max_tokens=2)
    devtools = page.context.new_cdp_session(page)
    page.locator("#input").focus()
    seen = page.evaluate_handle(
        """() => {
          const seen = [];
          for (const name of ["keydown", "compositionstart", "compositionend"])
            input.addEventListener(name, (e) => seen.push(name + (e.isComposing ? "*" : "")), true);
          return seen;
        }"""
    )
    for text in ("ㅇ", "아", "안"):
        compose(devtools, text)
    commit(devtools, "안")
    for text in ("ㄴ", "녀", "녕"):
        compose(devtools, text)
    if order == "composition ends first":  # Safari: keyCode 229, but no composition any more
        commit(devtools, "녕")
        press_enter(devtools, composing=True)
    else:  # Chromium: the key comes while composing, on some systems once more afterwards
        press_enter(devtools, composing=True)
        commit(devtools, "녕")
        if order == "enter twice":
            press_enter(devtools)
    finished(page)
    page.wait_for_timeout(50)
    assert asked(page) == ["안녕"]
    expect(page.locator("#input")).to_have_value("")
    names = seen.json_value()
    assert names.count("compositionstart") == names.count("compositionend") == 2
    assert ("keydown*" in names) == (order != "composition ends first")


def test_a_pending_enter_is_forgotten_when_writing_goes_on(open_page: Open) -> None:
    page = open_page(max_tokens=2)
    devtools = page.context.new_cdp_session(page)
    page.locator("#input").focus()
    compose(devtools, "한")
    press_enter(devtools, composing=True)
    key = {"key": "Process", "code": "KeyR", "windowsVirtualKeyCode": 229}
    devtools.send("Input.dispatchKeyEvent", {"type": "rawKeyDown", **key})
    compose(devtools, "하느")
    commit(devtools, "하느")
    page.wait_for_timeout(50)
    assert asked(page) == []
    expect(page.locator("#input")).to_have_value("하느")
    press_enter(devtools, modifiers=8)  # Shift
    expect(page.locator("#input")).to_have_value("하느\n")
    assert asked(page) == []
    commit(devtools, "둘째 줄")
    press_enter(devtools)
    finished(page)
    assert asked(page) == ["하느\n둘째 줄"]


# ------------------------------------------------------------------------------ safe Markdown

HOSTILE = """<script>window.taken = 1</script><img src=x onerror="window.taken = 2">
[눌러](javascript:window.taken=3) [눌러](JaVaScRiPt&#58;alert(1)) [눌러](data:text/html,<script>1</script>)
[눌러]( javascript:alert(1)) [x](vbscript:x) [file](file:///etc/passwd) <javascript:alert(1)>
![그림](https://example.com/pixel.png?who=me) ![그림](javascript:window.taken=4)
<a href="javascript:window.taken=5">a</a> <svg onload=window.taken=6> <iframe src="//example.com"></iframe>
**<img src=x onerror=window.taken=7>** `<img src=x onerror=window.taken=8>` [<b onclick=x>굵게</b>](https://example.com/a_(b))
| <script>1</script> | b |
| --- | --- |
| [x](javascript:1) | <style>*{display:none}</style> |

```"><script>window.taken = 9</script>
</code></pre><script>window.taken = 10</script>
```
# <script>window.taken = 11</script>
> - <img src=x onerror=window.taken=12>
"""


def test_hostile_text_becomes_no_script_no_image_and_no_link_but_the_web_s(open_page: Open) -> None:
    page = open_page()
    _load(page, [{"role": "user", "content": HOSTILE}, {"role": "assistant", "content": HOSTILE}])
    page.wait_for_timeout(100)
    assert page.evaluate("window.taken") is None
    log = page.locator("#log")
    for tag in ("script", "img", "svg", "iframe", "style", "b", "object", "[onerror]", "[onclick]"):
        assert log.locator(tag).count() == 0, tag
    links = [
        (link.get_attribute("href"), link.get_attribute("rel")) for link in log.locator("a").all()
    ]
    rel = "noopener noreferrer nofollow"
    assert sorted(links) == [
        ("https://example.com/a_(b)", rel),
        ("https://example.com/pixel.png?who=me", rel),
    ]
    shown = page.locator(".reply .text").inner_text()
    assert "<script>window.taken = 1</script>" in shown
    assert "</code></pre><script>window.taken = 10</script>" in shown


MARKDOWN = [
    ("**말**은 *기울여* ~~지움~~ ***둘***", "<p><strong>말</strong>은 <em>기울여</em> <s>지움</s> <strong><em>둘</em></strong></p>"),
    ("**\"따옴표\"**는 **(괄호)**를", "<p><strong>\"따옴표\"</strong>는 <strong>(괄호)</strong>를</p>"),
    ("2 * 3 * 4, 2*3*4, snake_case_name, ** 빈 **", "<p>2 * 3 * 4, 2*3*4, snake_case_name, ** 빈 **</p>"),
    ("닫히지 않은 **굵게와 `코드", "<p>닫히지 않은 **굵게와 `코드</p>"),
    ("`a*b*` ``c`d``", "<p><code>a*b*</code> <code>c`d</code></p>"),
    ("# 하나\n### 셋 ###\n#해시태그", "<h1>하나</h1><h3>셋</h3><p>#해시태그</p>"),
    ("첫 줄\n둘째 줄\n\n셋째", "<p>첫 줄<br>둘째 줄</p><p>셋째</p>"),
    ("- 하나\n- 둘\n  - 안\n\n끝", "<ul><li>하나</li><li>둘<ul><li>안</li></ul></li></ul><p>끝</p>"),
    ("3. 셋\n4. 넷", "<ol start=\"3\"><li>셋</li><li>넷</li></ol>"),
    ("1. 하나\n\n   이어서\n2. 둘", "<ol><li>하나<p>이어서</p></li><li>둘</li></ol>"),
    ("글\n- 목록", "<p>글</p><ul><li>목록</li></ul>"),
    ("> 인용\n> 둘", "<blockquote><p>인용<br>둘</p></blockquote>"),
    ("---\n***", "<hr><hr>"),
    ("\\*별\\* a\\b", "<p>*별* a\\b</p>"),
]  # fmt: skip


def test_markdown_is_shown_as_it_is_meant_in_korean_too(open_page: Open) -> None:
    page = open_page()
    page.evaluate("window.area = document.createElement('div')")
    draw = "(text) => { area = document.createElement('div'); show_markdown(area, text); return area.innerHTML; }"
    for text, html in MARKDOWN:
        assert page.evaluate(draw, text) == html, text
    table = page.evaluate(draw, "| 이름 | 값 |\n|:--|--:|\n| 가\\|나 | **1** |\n| 둘 |")
    assert '<thead><tr><th>이름</th><th style="text-align: right;">값</th></tr></thead>' in table
    assert '<td>가|나</td><td style="text-align: right;"><strong>1</strong></td>' in table
    code = page.evaluate(draw, "```python\nx = 1\n\n# **글**\n")  # no end yet: it is being streamed
    assert "<code>x = 1\n\n# **글**\n</code>" in code
    for text, address in (
        ("https://example.com/a에서 보세요.", "https://example.com/a"),
        ("(https://ko.wikipedia.org/wiki/말모이)", "https://ko.wikipedia.org/wiki/%EB%A7%90%EB%AA%A8%EC%9D%B4"),
        ("<https://example.com>", "https://example.com/"),
    ):  # fmt: skip
        assert f'href="{address}"' in page.evaluate(draw, text)


@pytest.mark.timeout(120)  # a hostile text may not take long
def test_markdown_in_any_pieces_gives_the_same_page_and_no_text_takes_long(open_page: Open) -> None:
    page = open_page()
    text = "\n\n".join(text for text, _ in MARKDOWN) + "\n" + HOSTILE
    same = page.evaluate(
        """(text) => {
          const [grown, whole] = [document.createElement("div"), document.createElement("div")];
          for (let end = 1; end <= text.length; end++) show_markdown(grown, text.slice(0, end));
          show_markdown(whole, text);
          return grown.innerHTML === whole.innerHTML;
        }""",
        text,
    )
    assert same
    long = ["*a ", "**a", "`", "``a`", "[", "[](", "> ", "- ", "|a", "_a ", "![", "<http://", "\\", "#", "# \t", "\n", " ", "```", "1. ", "* *a", "(((", "|-", "[a](b ", "~~~ "]  # fmt: skip
    for piece in long:
        page.evaluate(
            "(piece) => show_markdown(document.createElement('div'), piece.repeat(60000 / piece.length))",
            piece,
        )


# ---------------------------------------------------------------------------- what goes wrong


def test_a_conversation_over_the_context_is_offered_to_be_cut_and_says_so(open_page: Open) -> None:
    page = open_page(max_tokens=4)
    text = "가나다라 " * 22
    say(page, text)
    for _ in range(6):
        say(page, text)
        if page.get_by_role("alert").count():
            break
    expect(page.get_by_role("alert")).to_contain_text("context")
    page.get_by_role("button", name="오래된 차례를 빼고 보내기").click()
    finished(page)
    expect(page.get_by_text("문맥에 맞추려고 오래된 메시지를 뺐습니다: 2")).to_be_visible()
    assert page.get_by_role("alert").count() == 0
    say(page, "가" * 1500)  # alone over the context: nothing left to leave out
    expect(page.get_by_role("alert")).to_contain_text("context")
    expect(page.get_by_role("button", name="오래된 차례를 빼고 보내기")).to_have_count(0)


def test_the_server_s_own_words_are_shown_when_it_refuses(open_page: Open) -> None:
    page = open_page()
    page.evaluate("talk.settings.temperature = 9")
    say(page, "안녕")
    expect(page.get_by_role("alert")).to_contain_text("temperature")
    page.get_by_role("button", name="설정").click()
    page.locator("#temperature").fill("0.5")
    page.locator("#settings").get_by_role("button", name="닫기").click()
    page.get_by_role("button", name="다시").click()
    finished(page)
    assert page.get_by_role("alert").count() == 0
    page.context.set_offline(True)
    say(page, "안녕")
    expect(page.get_by_role("alert")).to_contain_text("서버에 연결할 수 없습니다.")
    page.context.set_offline(False)
    say(page, "다시 안녕")
    assert page.get_by_role("alert").count() == 1


def test_a_busy_server_is_waited_for(open_page: Open, monkeypatch: pytest.MonkeyPatch) -> None:
    page = open_page()
    monkeypatch.setattr(engine_module, "MAX_REQUESTS", 0)
    page.locator("#input").fill("안녕")
    page.locator("#input").press("Enter")
    expect(page.locator(".reply .note")).to_contain_text("서버가 바쁩니다")
    monkeypatch.undo()
    finished(page)
    assert page.get_by_role("alert").count() == 0
    expect(page.locator(".figures")).to_contain_text("토큰")


def test_without_a_key_it_is_asked_for_and_kept_in_the_tab_only(
    open_page: Open, engine: Engine
) -> None:
    with serving({"tiny": engine}, api_key="비밀 key") as url:
        page = open_page(url)
        dialog = page.locator("#ask-key")
        expect(dialog).to_be_visible()
        dialog.get_by_role("button", name="취소").click()
        page.locator("#input").fill("안녕")
        page.locator("#input").press("Enter")
        expect(dialog).to_be_visible()
        dialog.locator("input").fill("틀림")
        dialog.locator("input").press("Enter")
        expect(dialog.locator("input")).to_have_value("")
        dialog.locator("input").fill("비밀 key")
        dialog.locator("input").press("Enter")
        finished(page)
        assert page.locator(".reply .text").inner_text().strip()
        assert page.get_by_role("alert").count() == 0
        page.reload()
        expect(page.locator("#model")).to_have_text("tiny")
        assert "비밀" not in page.evaluate("JSON.stringify(localStorage)")
        page.close()


# -------------------------------------------------------------------------- settings, compare


def test_settings_travel_with_the_request_and_a_new_conversation_takes_them_over(
    open_page: Open,
) -> None:
    page = open_page()
    page.get_by_role("button", name="설정").click()
    values = {"temperature": 0.4, "top_p": 0.9, "top_k": 40, "min_p": 0.05}
    values |= {"repetition_penalty": 1.1, "max_tokens": 5, "seed": 7}
    for name, value in values.items():
        page.locator(f"#{name}").fill(str(value))
    page.locator("#system").fill("짧게 답한다")
    page.locator("#settings").get_by_role("button", name="닫기").click()
    page.locator("#fresh").click()
    with page.expect_request("**/completions") as request:
        say(page, "안녕")
    body = request.value.post_data_json
    assert {name: body[name] for name in values} == values
    assert body["messages"][0] == {"role": "system", "content": "짧게 답한다"}
    assert page.get_by_role("alert").count() == 0


def test_two_models_answer_side_by_side_each_with_a_history_of_its_own(open_page: Open) -> None:
    page = open_page(max_tokens=6)
    say(page, "혼자")
    page.get_by_role("button", name="비교").click()
    bodies: list[Any] = []
    page.on("request", lambda r: r.method == "POST" and bodies.append(r.post_data_json))
    page.evaluate("talk.settings.seed = undefined")
    say(page, "둘이")
    assert sorted(body["model"] for body in bodies) == ["other", "tiny"]
    assert [r.inner_text() for r in page.locator(".two .who").all()] == ["tiny", "other"]
    say(page, "또")
    said = page.evaluate("talk.turns[1].replies.map((reply) => reply.content)")
    for body in bodies[2:]:
        own = said[["tiny", "other"].index(body["model"])]
        assert body["messages"][3] == {"role": "assistant", "content": own}
    boxes = [reply.bounding_box() for reply in page.locator(".two").last.locator(".reply").all()]
    assert boxes[0]["y"] == boxes[1]["y"]
    assert boxes[0]["x"] + boxes[0]["width"] <= boxes[1]["x"]
    page.set_viewport_size(PHONE)
    boxes = [reply.bounding_box() for reply in page.locator(".two").last.locator(".reply").all()]
    assert boxes[0]["x"] == boxes[1]["x"]
    assert boxes[0]["y"] + boxes[0]["height"] <= boxes[1]["y"]
    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")


# ------------------------------------------------------------- phone, language, screen readers


def test_on_a_phone_the_list_is_a_drawer_that_keyboard_and_finger_open_and_close(
    open_page: Open,
) -> None:
    page = open_page(viewport=PHONE, has_touch=True, is_mobile=True)
    say(page, "휴대전화에서 " + "아주긴낱말" * 30)
    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")
    side, menu = page.locator("#side"), page.locator("#menu")
    expect(side).to_be_hidden()
    menu.tap()
    expect(side).to_be_visible()
    expect(menu).to_have_attribute("aria-expanded", "true")
    assert page.evaluate("document.getElementById('page').inert")
    page.keyboard.press("Escape")
    expect(side).to_be_hidden()
    expect(menu).to_be_focused()
    menu.press("Enter")
    page.locator("#fresh").tap()
    expect(side).to_be_hidden()
    assert asked(page) == []
    for button in page.locator("button:visible").all():
        assert button.bounding_box()["height"] >= 34


def test_both_languages_and_both_colours_are_a_button_away_and_remembered(open_page: Open) -> None:
    page = open_page(locale="en-US", color_scheme="dark")
    expect(page.locator("#go")).to_have_text("Send")
    ground = "getComputedStyle(document.body).backgroundColor"
    darkness = page.evaluate(ground)
    page.get_by_role("button", name="Change brightness").click()
    assert page.evaluate(ground) != darkness
    page.get_by_role("button", name="한국어로 바꾸기").click()
    page.reload()
    expect(page.locator("#go")).to_have_text("보내기")
    assert page.evaluate("document.documentElement.lang") == "ko"
    assert page.evaluate(ground) != darkness


def test_a_screen_reader_hears_finished_paragraphs_and_every_control_has_a_name(
    open_page: Open,
) -> None:
    page = open_page(max_tokens=40)
    page.evaluate(
        """() => {
          window.heard = [];
          new MutationObserver((changes) => {
            for (const change of changes) for (const node of change.addedNodes) heard.push(node.textContent);
          }).observe(document.getElementById("spoken"), { childList: true });
        }"""
    )
    say(page, "안녕")
    heard = page.evaluate("heard")
    blocks = page.evaluate("[...document.querySelector('.reply .text').children].map((b) => b.textContent)")  # fmt: skip
    assert heard == blocks
    assert page.locator("#log").get_attribute("aria-live") is None
    assert page.locator("#status").inner_text() == "답이 끝났습니다"
    nameless = page.evaluate(
        """() => [...document.querySelectorAll("button, input, textarea, select, a")]
          .filter((e) => e.id !== "file" && !e.textContent.trim() && !e.ariaLabel && !e.labels?.[0]?.textContent.trim())
          .map((e) => e.outerHTML)"""
    )
    assert nameless == []
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.id") == "go"


# ------------------------------------------------------------------------------------ pictures

TALK = [
    {"role": "user", "content": "파이썬으로 글에서 한글만 세려면 어떻게 해요?"},
    {
        "role": "assistant",
        "content": "정규식으로 **한글 음절**만 골라 세면 됩니다.\n\n```python\nimport re\n\n"
        'def hangul(text: str) -> int:\n    return len(re.findall("[가-힣]", text))\n\n'
        'print(hangul("말모이 2026"))  # 3\n```\n\n- `가-힣`은 완성된 음절 11,172자입니다.\n'
        "- 자모까지 세려면 `ㄱ-ㅎㅏ-ㅣ`를 더하세요.",
    },
    {"role": "user", "content": "말모이는 무슨 뜻이에요?"},
    {
        "role": "assistant",
        "content": "**말모이**는 '말을 모은 것', 곧 *사전*을 이르는 말입니다. 주시경과 제자들이 1911년부터 "
        "엮던 첫 우리말 사전의 이름이기도 합니다.",
    },
]


def test_the_pictures_of_the_page(tmp_path: Path, open_page: Open) -> None:
    """Renews README's picture, and with `MALMOI_SCREENSHOTS=FOLDER` writes every view for looking at.

    MALMOI_SCREENSHOT=.github/chat.png pytest tests/launch/test_chat_page.py -k pictures

    The replies are real: a model of 0.6 M weights that learned this dialogue by heart, on the spot.
    """
    target = os.environ.get("MALMOI_SCREENSHOT")
    if not target:
        pytest.skip("set MALMOI_SCREENSHOT=FILE.png to renew README's picture")
    from PIL import Image
    from recital import learn

    with (
        Engine(learn(tmp_path / "recital" / "model", [TALK])) as good,
        Engine(learn(tmp_path / "early" / "model", [TALK], until=2.5)) as early,
        serving({"recital": good, "early": early}) as url,
    ):
        shots: dict[str, Path] = {}

        def shoot(name: str, page: Page) -> None:
            page.wait_for_timeout(150)
            shots[name] = tmp_path / f"{name}.png"
            page.screenshot(path=shots[name])

        def talk(page: Page) -> None:
            page.evaluate("talk.settings = { temperature: 0, max_tokens: 400 }")
            for turn in TALK[::2]:
                say(page, turn["content"])

        for colour in ("light", "dark"):
            page = open_page(url, color_scheme=colour, max_tokens=None)
            shoot(f"empty-{colour}", page)
            talk(page)
            page.evaluate("document.getElementById('log').scrollTop = 0")
            shoot(f"desk-{colour}", page)
            page.get_by_role("button", name="설정").click()
            shoot(f"settings-{colour}", page)
            page.keyboard.press("Escape")
            page.locator("#fresh").click()
            page.get_by_role("button", name="비교").click()
            talk(page)
            page.evaluate("document.getElementById('log').scrollTop = 0")
            page.get_by_role("button", name="대화 메뉴").first.click()
            shoot(f"compare-{colour}", page)
            page.get_by_role("button", name="고치기").first.click()
            shoot(f"edit-{colour}", page)
            phone = open_page(
                url, viewport=PHONE, is_mobile=True, has_touch=True, color_scheme=colour
            )
            talk(phone)
            shoot(f"phone-{colour}", phone)
            phone.locator("#menu").tap()
            phone.wait_for_timeout(300)
            shoot(f"drawer-{colour}", phone)
            phone.locator("#side").get_by_role("button", name="설정").tap()
            shoot(f"phone-settings-{colour}", phone)
            phone.keyboard.press("Escape")
            phone.get_by_role("button", name="비교").tap()
            say(phone, TALK[2]["content"])
            shoot(f"phone-compare-{colour}", phone)

    desk, phone_shot = (Image.open(shots[n]).convert("RGB") for n in ("desk-light", "phone-dark"))
    both = Image.new("RGB", (desk.width + 24 + phone_shot.width, desk.height), "white")
    both.paste(desk, (0, 0))
    both.paste(phone_shot, (desk.width + 24, 0))
    both.quantize(64, dither=Image.Dither.NONE).save(target, optimize=True)
    assert Path(target).stat().st_size < 120_000
    if folder := os.environ.get("MALMOI_SCREENSHOTS"):
        for path in shots.values():
            shutil.copy(path, folder)
