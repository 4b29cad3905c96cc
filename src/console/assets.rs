//! Style sheet, script and icon, in the binary; their names hold their hash, so that browsers may keep them for ever.

use super::answer::Refused;
use axum::extract::Path;
use axum::http::header;
use axum::response::{IntoResponse, Response};
use sha2::{Digest as _, Sha256};
use std::sync::LazyLock;

const CSS: &str = concat!(include_str!("assets/base.css"), include_str!("assets/parts.css"));
const SCRIPT: &str = include_str!("assets/console.js");
const ICON: &str = include_str!("assets/icon.svg");

/// Path of the style sheet.
pub(super) static STYLE_PATH: LazyLock<String> = LazyLock::new(|| path("console", CSS, "css"));
/// Path of the script.
pub(super) static SCRIPT_PATH: LazyLock<String> = LazyLock::new(|| path("console", SCRIPT, "js"));
/// Path of the icon: a browser that is told of none asks for one that is not there.
pub(super) static ICON_PATH: LazyLock<String> = LazyLock::new(|| path("icon", ICON, "svg"));

fn path(name: &str, text: &str, extension: &str) -> String {
    let hash = hex::encode(&Sha256::digest(text.as_bytes())[..8]);
    format!("/admin/assets/{name}-{hash}.{extension}")
}

/// One of the files.
pub(super) async fn asset(Path(file): Path<String>) -> Result<Response, Refused> {
    let is = |path: &str| path.rsplit('/').next() == Some(&file);
    let (kind, text) = if is(&STYLE_PATH) {
        ("text/css; charset=utf-8", CSS)
    } else if is(&SCRIPT_PATH) {
        ("text/javascript; charset=utf-8", SCRIPT)
    } else if is(&ICON_PATH) {
        ("image/svg+xml", ICON)
    } else {
        return Err(Refused::NotFound(
            "There is no such file; a newer version of the program may run: load the page again.",
        ));
    };
    let headers = [(header::CONTENT_TYPE, kind), (header::CACHE_CONTROL, "public, max-age=31536000, immutable")];
    Ok((headers, text).into_response())
}
