//! The report in a real browser: it asks nobody for anything, it is drawn, and a drag on the step axis
//! zooms every chart. Needs Chromium or Chrome (`CHROME` names another binary).

use std::sync::{Arc, Mutex};
use std::time::Duration;

use headless_chrome::browser::tab::RequestPausedDecision;
use headless_chrome::browser::transport::{SessionId, Transport};
use headless_chrome::protocol::cdp::{Emulation, Fetch, Input};
use headless_chrome::{Browser, LaunchOptions, Tab};
use thermoscope::record::{Catalog, Manifest, RunDir, Setup, Status};
use thermoscope::train::Session;

const RUN: &str = r#"
    name = "a <b>small</b> run"
    steps = 120
    [task]
    kind = "modular"
    p = 13
    [model]
    d_model = 16
    n_heads = 2
    [optimizer]
    learning_rate = 0.01
    [[replica]]
    name = "main"
    [[replica]]
    name = "labels <i>shuffled</i>"
    shuffle_labels = true
"#;

/// Trains into a run directory and returns the page.
fn page(dir: &std::path::Path) -> std::path::PathBuf {
    let gpu = &crate::common::gpus()[0];
    let setup = Setup::from_toml(RUN).unwrap();
    let mut session = Session::new(gpu, setup.config).unwrap();
    let manifest = Manifest::new(setup.resolved, Default::default(), gpu.caps(), None);
    let mut out = RunDir::create(dir, manifest, &Catalog::of(&session).unwrap()).unwrap();
    for _ in 0..12 {
        session.submit(10);
        gpu.wait().unwrap();
        while let Some(steps) = session.take_rows().unwrap() {
            for row in steps.iter().flat_map(|step| session.rows(step)) {
                out.row(&row);
            }
        }
    }
    out.close(Status::Finished, 120).unwrap();
    thermoscope::report::write(dir).unwrap().page
}

fn browser() -> Browser {
    let known = ["chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "chrome"];
    let search = std::env::var_os("PATH").unwrap_or_default();
    let found = std::env::var_os("CHROME").map(Into::into).or_else(|| {
        std::env::split_paths(&search).flat_map(|dir| known.map(|name| dir.join(name))).find(|path| path.exists())
    });
    let path = found.expect("this test needs Chromium: apt-get install chromium, or name a binary in CHROME");
    let options =
        LaunchOptions { path: Some(path), window_size: Some((1280, 1600)), sandbox: false, ..LaunchOptions::default() };
    Browser::new(options).unwrap()
}

fn number(tab: &Tab, script: &str) -> f64 {
    tab.evaluate(script, false)
        .unwrap()
        .value
        .and_then(|v| v.as_f64())
        .unwrap_or_else(|| panic!("{script} is no number"))
}

fn mouse(tab: &Tab, kind: Input::DispatchMouseEventTypeOption, x: f64, y: f64) {
    tab.call_method(Input::DispatchMouseEvent {
        Type: kind,
        x,
        y,
        button: Some(Input::MouseButton::Left),
        buttons: Some(1),
        click_count: Some(1),
        modifiers: None,
        timestamp: None,
        force: None,
        tangential_pressure: None,
        tilt_x: None,
        tilt_y: None,
        twist: None,
        delta_x: None,
        delta_y: None,
        pointer_Type: None,
    })
    .unwrap();
}

#[test]
fn the_page_is_alone_is_drawn_and_zooms() {
    let dir = tempfile::tempdir().unwrap();
    let page = page(&dir.path().join("run"));
    let bytes = std::fs::metadata(&page).unwrap().len();
    assert!(bytes < 5_000_000, "{bytes} bytes");
    let url = format!("file://{}", page.display());

    let browser = browser();
    let tab = browser.new_tab().unwrap();
    let asked = Arc::new(Mutex::new(Vec::new()));
    let log = Arc::clone(&asked);
    tab.enable_fetch(None, None).unwrap();
    tab.enable_request_interception(Arc::new(
        move |_: Arc<Transport>, _: SessionId, paused: Fetch::events::RequestPausedEvent| {
            log.lock().unwrap().push(paused.params.request.url);
            RequestPausedDecision::Continue(None)
        },
    ))
    .unwrap();
    tab.navigate_to(&url).unwrap();
    tab.wait_for_element_with_custom_timeout("body[data-ready][data-drawn]", Duration::from_secs(30)).unwrap();

    // A name is text, never markup.
    let title = tab.wait_for_element("h1").unwrap().get_inner_text().unwrap();
    assert_eq!(title, "a <b>small</b> run");
    // Replicas go by their names, in the table and in the charts.
    let table = tab.wait_for_element("table").unwrap().get_inner_text().unwrap();
    assert!(table.contains("main") && table.contains("labels <i>shuffled</i>"), "{table}");
    let rows = |name: &str| number(&tab, &format!("rowsOf('loss').filter((row) => row.replica === '{name}').length"));
    assert!(rows("main") > 100.0 && rows("main") == rows("labels <i>shuffled</i>"));
    // Something was painted: more than one colour on the canvas, and rows behind it.
    let colours = number(
        &tab,
        "(() => { const c = document.querySelector('#charts canvas'); \
         const d = c.getContext('2d').getImageData(0, 0, c.width, c.height).data; \
         const seen = new Set(); for (let i = 0; i < d.length; i += 4) seen.add(d[i] << 16 | d[i+1] << 8 | d[i+2]); \
         return seen.size; })()",
    );
    assert!(colours > 20.0, "{colours} colours");

    // No window of a usual size has to be scrolled sideways, neither for the page nor for a topic.
    for width in [1280, 1024] {
        let (height, device_scale_factor, mobile) = (900, 1.0, false);
        tab.call_method(Emulation::SetDeviceMetricsOverride {
            width,
            height,
            device_scale_factor,
            mobile,
            scale: None,
            screen_width: None,
            screen_height: None,
            position_x: None,
            position_y: None,
            dont_set_visible_size: None,
            screen_orientation: None,
            viewport: None,
            display_feature: None,
            device_posture: None,
        })
        .unwrap();
        tab.reload(true, None).unwrap();
        tab.wait_for_element_with_custom_timeout("body[data-ready][data-drawn]", Duration::from_secs(30)).unwrap();
        let beyond = "Math.max(...[document.documentElement, ...document.querySelectorAll('section')] \
             .map((part) => part.scrollWidth - part.clientWidth))";
        assert!(number(&tab, beyond) <= 0.0, "{} pixels beyond a window of {width}", number(&tab, beyond));
    }
    tab.call_method(Emulation::ClearDeviceMetricsOverride(None)).unwrap();
    tab.reload(true, None).unwrap();
    tab.wait_for_element_with_custom_timeout("body[data-ready][data-drawn]", Duration::from_secs(30)).unwrap();

    // The topics of what was measured are there, one with the heads' effects and one with the claims of the arms.
    let text = tab.wait_for_element("body").unwrap().get_inner_text().unwrap();
    for words in ["Grokking circuits", "Ablation", "Calibration", "Which claims survive the controls", "groks: "] {
        assert!(text.contains(words), "{words} is missing");
    }
    assert!(!text.contains("On random tokens that repeat"), "nothing of induction was measured");
    let heads = "new Set(rowsOf('heads').map((row) => row.series)).size";
    assert_eq!(number(&tab, heads), 3.0, "two heads and an MLP");
    assert!(number(&tab, "rowsOf('null').filter((row) => row.low <= row.high).length") > 0.0);
    // The place that was left for a topic is about as tall as the topic.
    let wrong = "Math.max(...report.topics.map(({ id }) => { const place = document.getElementById(id); \
         return Math.abs(parseFloat(place.style.minHeight) / place.querySelector('canvas').offsetHeight - 1); }))";
    assert!(number(&tab, wrong) < 0.1, "a topic's height is off by a share of {}", number(&tab, wrong));
    // Choosing a replica reaches every chart that shows one replica at a time.
    let choose = "(async () => { const s = document.getElementById('shown'); s.value = '1'; \
         s.dispatchEvent(new Event('change')); await followAll(); \
         const rows = report.topics.find((topic) => topic.tables.includes('heads')).view.data('heads'); \
         return [...new Set(rows.map((row) => row.replica))].join(); })()";
    let shown = tab.evaluate(choose, true).unwrap().value.unwrap();
    assert_eq!(shown, "labels <i>shuffled</i>");
    assert_eq!(number(&tab, "report.topics.filter((topic) => topic.shown !== 1).length"), 0.0);

    // Dragging along the strip selects steps; every chart's axis follows.
    let extent =
        "(() => { const b = window.view.signal('brush'); return b && b.step ? b.step[1] - b.step[0] : -1; })()";
    assert_eq!(number(&tab, extent), -1.0, "nothing is selected at first");
    let (left, top) = (
        number(
            &tab,
            "(document.querySelector('#bar').scrollIntoView(), \
             document.querySelector('#strip canvas').getBoundingClientRect().left)",
        ),
        number(&tab, "document.querySelector('#strip canvas').getBoundingClientRect().top"),
    );
    let (x, y) = (left + 250.0, top + 40.0);
    mouse(&tab, Input::DispatchMouseEventTypeOption::MouseMoved, x, y);
    mouse(&tab, Input::DispatchMouseEventTypeOption::MousePressed, x, y);
    for at in 1..=10 {
        mouse(&tab, Input::DispatchMouseEventTypeOption::MouseMoved, x + 20.0 * f64::from(at), y);
    }
    mouse(&tab, Input::DispatchMouseEventTypeOption::MouseReleased, x + 200.0, y);
    tab.evaluate("window.view.runAsync()", true).unwrap();
    let selected = number(&tab, extent);
    // 200 of 820 pixels on an axis of about 120 steps.
    assert!((15.0..60.0).contains(&selected), "{selected} steps are selected");

    let follow = "new Promise((done) => requestAnimationFrame(() => requestAnimationFrame(() => \
         done(Math.max(...report.topics.map(({ view }) => view.signal('to') - view.signal('from')))))))";
    let followed = tab.evaluate(follow, true).unwrap().value.and_then(|v| v.as_f64()).unwrap();
    assert!((followed - selected).abs() < 1e-6, "the charts show {followed} steps");

    let asked = asked.lock().unwrap();
    assert!(asked.iter().any(|a| a == &url), "the page itself was asked for: {asked:?}");
    assert!(asked.iter().all(|a| a == &url || a.starts_with("data:")), "{asked:?}");
}
