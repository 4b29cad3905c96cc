use super::*;
use proptest::prelude::*;
use std::time::Instant;

fn within(inner: &str) -> String {
    format!("<div xmlns=\"http://www.w3.org/1999/xhtml\">{inner}</div>")
}

fn errors(xhtml: &str) -> Vec<String> {
    check_div(xhtml).into_iter().filter(|problem| problem.severity.rejects()).map(|problem| problem.message).collect()
}

fn has_error(xhtml: &str, part: &str) {
    let errors = errors(xhtml);
    assert!(errors.iter().any(|message| message.contains(part)), "{xhtml}: {errors:?}");
}

#[test]
fn ordinary_narratives_are_clean() {
    for inner in [
        "text",
        "<p>a<br/>b</p><p class='x' style='color: red'>a &lt; b &amp; c &#169; &#xA9;</p>",
        "<table border=\"1\"><tbody><tr><td colspan='2'>1</td></tr></tbody></table>",
        "<!-- a comment --><ul><li><a href=\"http://example.org\">x</a></li></ul>",
        "<img src='data:image/png;base64,AAAA' alt=''/>",
        "<a name='here'>x</a><a href='#here'>y</a><span id='there'/><a href='#there'>z</a>",
        "<![CDATA[<script>]]>",
        "<div xml:lang='de' lang='de'>Grüße</div>",
        "<p\n  id = \"a\"\t>x</p >",
    ] {
        assert_eq!(check_div(&within(inner)), [], "{inner}");
    }
    assert_eq!(check_div("  <div xmlns='http://www.w3.org/1999/xhtml'>x</div>\n"), []);
}

#[test]
fn what_runs_is_an_error() {
    has_error(&within("x<script>alert(1)</script>"), "script");
    has_error(&within("<form>x</form>"), "form");
    has_error(&within("<iframe src='x'>x</iframe>"), "iframe");
    has_error(&within("<p onclick='x()'>x</p>"), "event");
    has_error(&within("<b ONLOAD='x()'>x</b>"), "event");
    for url in ["javascript:x()", " JavaScript:x()", "java&#x09;script:x()", "&#106;avascript&#58;x()", "vbscript:x"] {
        has_error(&within(&format!("<a href='{url}'>x</a>")), "run a script");
        has_error(&within(&format!("<img src='{url}'/>")), "run a script");
    }
    has_error(&within("<a href='data:text/html,x'>x</a>"), "run a script");
    has_error(&within("<img src='data:image/svg+xml,x'/>"), "run a script");
    has_error(&within("<p style='background: url(javascript:x())'>x</p>"), "style");
}

#[test]
fn only_the_elements_and_attributes_of_narratives_are_allowed() {
    has_error(&within("<Jane>x</Jane>"), "an element that");
    has_error(&within("<P>x</P>"), "an element that");
    has_error(&within("<p jane='x'>x</p>"), "an attribute that");
    has_error("<p xmlns='http://www.w3.org/1999/xhtml'>x</p>", "one div");
    has_error("<div>x</div>", "namespace");
    has_error("<div xmlns='http://example.org'>x</div>", "namespace");
    has_error(&within("<p xmlns='http://example.org'>x</p>"), "namespace");
    let doubtful = check_div(&within("<ol start='2'><li>x</li></ol>"));
    assert_eq!(doubtful.iter().map(|problem| problem.severity).collect::<Vec<_>>(), [Severity::Warning]);
}

#[test]
fn no_message_repeats_the_narrative() {
    for xhtml in [
        within("<Jane>x</Jane>"),
        within("<p Jane='x'>x</p>"),
        within("<a href='#Jane'>x</a>"),
        within("&Jane;"),
        within("<Jane"),
        "<div xmlns='Jane'>x</div>".to_owned(),
    ] {
        let problems = check_div(&xhtml);
        assert!(!problems.is_empty(), "{xhtml}");
        assert!(problems.iter().all(|problem| !problem.message.contains("Jane")), "{problems:?}");
    }
}

#[test]
fn only_xmls_entities_have_names() {
    has_error(&within("&reg;"), "entity");
    has_error(&within("&nbsp;"), "entity");
    has_error(&within("<p title='&copy;'>x</p>"), "entity");
    has_error(&within("a & b"), "ampersand");
    has_error(&within("a &"), "ampersand");
    has_error(&within("&#;"), "ampersand");
    has_error(&within("&#0;"), "character");
    has_error(&within("&#xD800;"), "character");
    assert_eq!(check_div(&within("&lt;&gt;&amp;&quot;&apos;&#65;&#x1F600;x")), []);
}

#[test]
fn what_is_not_well_formed_is_an_error() {
    for xhtml in [
        "",
        "x",
        "<",
        "<div",
        "<div xmlns='http://www.w3.org/1999/xhtml'>x",
        "<div xmlns='http://www.w3.org/1999/xhtml'>x</div>x",
        "<div xmlns='http://www.w3.org/1999/xhtml'>x</div><p>y</p>",
        "<div xmlns='http://www.w3.org/1999/xhtml'><b>x</div></b>",
        "<div xmlns='http://www.w3.org/1999/xhtml' id=a>x</div>",
        "<div xmlns='http://www.w3.org/1999/xhtml' id>x</div>",
        "<div xmlns='http://www.w3.org/1999/xhtml' id='a'id='b'>x</div>",
        "<div xmlns='http://www.w3.org/1999/xhtml' id='a' id='b'>x</div>",
        "<div xmlns='http://www.w3.org/1999/xhtml' id='<'>x</div>",
        "<!DOCTYPE div><div xmlns='http://www.w3.org/1999/xhtml'>x</div>",
        "<div xmlns='http://www.w3.org/1999/xhtml'><!-- a -- b -->x</div>",
        "</div>",
    ] {
        assert!(!errors(xhtml).is_empty(), "{xhtml}");
    }
}

#[test]
fn a_narrative_says_something() {
    for inner in ["", "  \n", "<p> </p>", "<!-- x -->", "<br/>"] {
        has_error(&within(inner), "txt-2");
    }
    assert_eq!(check_div(&within("<img src='a.png'/>")), []);
}

#[test]
fn a_link_to_nowhere_is_a_warning() {
    let problems = check_div(&within("<a href='#Patient_1'>x</a><a href='#Patient_2'>y</a>"));
    assert_eq!(problems.len(), 1);
    assert_eq!((problems[0].severity, problems[0].code), (Severity::Warning, "not-found"));
}

#[test]
fn ids_are_those_of_elements_and_anchors() {
    let xhtml = within("<p id='a'>x</p><a name='b' id='b'>y</a><a name='c&amp;d'/><map name='m'/>");
    assert_eq!(ids(&xhtml), ["a", "b", "c&d"]);
    assert_eq!(ids("<div id='a'><p id='b'"), ["a"]);
}

#[test]
fn hostile_narratives_cost_linear_time() {
    let deep = "<div>".repeat(100_000);
    let hostile = [
        "<".repeat(10_000_000),
        format!("{}x{}", within(&deep), "</div>".repeat(100_000)),
        format!("<div xmlns='http://www.w3.org/1999/xhtml'>{deep}x{}", "</div>".repeat(100_001)),
        "&".repeat(5_000_000),
        within(&"&amp;".repeat(1_000_000)),
        format!("<div {}>", (0..200_000).map(|n| format!("a{n}=''")).collect::<Vec<_>>().join(" ")),
        within(&"<a href='#x'>y</a>".repeat(200_000)),
        within(&"<!--".repeat(1_000_000)),
        within(&"<p>".repeat(500_000)),
        format!("<div style='{}'>", "javascript".repeat(500_000)),
        format!("<{}>", "a".repeat(5_000_000)),
    ];
    let start = Instant::now();
    for xhtml in &hostile {
        assert!(check_div(xhtml).len() <= NARRATIVE_PROBLEMS_MAX);
        let _ = ids(xhtml);
    }
    // Quadratic work would take hours.
    assert!(start.elapsed().as_secs() < 60, "{:?}", start.elapsed());
}

proptest! {
    #[test]
    fn no_text_panics(text: String, near in "(<|>|/|!|--|\\[CDATA\\[|]]>|div|p|a|href|=|'|\"|&|;|#|x|1| |javascript:|é){0,40}") {
        let _ = check_div(&text);
        let _ = check_div(&near);
        let _ = check_div(&within(&near));
        let _ = ids(&within(&near));
    }

    #[test]
    fn escaped_text_is_always_clean(text in "[^\\p{C}]{0,40}") {
        let escaped = text.replace('&', "&amp;").replace('<', "&lt;").replace('\'', "&apos;");
        let xhtml = within(&format!("x<p title='{escaped}'>{escaped}</p>"));
        prop_assert_eq!(check_div(&xhtml), []);
    }
}
