//! The layout around every page.

use super::answer;
use super::assets::{ICON_PATH, SCRIPT_PATH, STYLE_PATH};
use super::session::Visitor;
use axum::http::StatusCode;
use axum::response::Response;
use maud::{DOCTYPE, Markup, html};

/// Where in the console a page stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Section {
    Overview,
    Jobs,
    Failures,
    Operations,
    Lanes,
    Reviews,
    Organizations,
    Workflows,
    Workers,
    Audit,
}

impl Section {
    /// All, as the menu shows them.
    pub(super) const ALL: [Self; 10] = [
        Self::Overview,
        Self::Jobs,
        Self::Failures,
        Self::Operations,
        Self::Lanes,
        Self::Reviews,
        Self::Organizations,
        Self::Workflows,
        Self::Workers,
        Self::Audit,
    ];

    /// Its name in the menu.
    pub(super) fn title(self) -> &'static str {
        match self {
            Self::Overview => "Overview",
            Self::Jobs => "Jobs",
            Self::Failures => "Failures",
            Self::Operations => "Operations",
            Self::Lanes => "Lanes",
            Self::Reviews => "Reviews",
            Self::Organizations => "Organizations",
            Self::Workflows => "Workflows",
            Self::Workers => "Workers",
            Self::Audit => "Audit",
        }
    }

    /// Its address.
    pub(super) fn path(self) -> &'static str {
        match self {
            Self::Overview => "/admin/overview",
            Self::Jobs => "/admin/jobs",
            Self::Failures => "/admin/failures",
            Self::Operations => "/admin/operations",
            Self::Lanes => "/admin/lanes",
            Self::Reviews => "/admin/reviews",
            Self::Organizations => "/admin/organizations",
            Self::Workflows => "/admin/workflows",
            Self::Workers => "/admin/workers",
            Self::Audit => "/admin/audit",
        }
    }
}

/// A page: what stays as it is while somebody looks, and what is shown live. Forms stand in the fixed part, so that nobody's
/// typing is replaced.
pub(super) struct Page {
    /// Where it stands.
    pub(super) section: Section,
    /// Its heading.
    pub(super) title: String,
    /// Above the live part: filters.
    pub(super) before: Markup,
    /// Rendered again while somebody looks.
    pub(super) live: Markup,
    /// Below the live part: acts.
    pub(super) after: Markup,
}

impl Page {
    /// A page that is only shown live.
    pub(super) fn live(section: Section, title: impl Into<String>, live: Markup) -> Self {
        Self { section, title: title.into(), before: html! {}, live, after: html! {} }
    }

    /// A page of which nothing changes while somebody looks.
    pub(super) fn fixed(section: Section, title: impl Into<String>, body: Markup) -> Self {
        Self { section, title: title.into(), before: body, live: html! {}, after: html! {} }
    }

    /// For this visitor: whole, or only its live part for who watches it already.
    pub(super) fn render(self, visitor: &Visitor) -> Response {
        if visitor.watches {
            return answer::html(StatusCode::OK, self.live);
        }
        let is_live = !self.live.0.is_empty();
        let body = html! {
            a class="skip" href="#main" { "Skip to the content" }
            header class="top" {
                a class="brand" href="/admin/overview" { "Chartgate" }
                nav aria-label="Sections" {
                    ul {
                        @for section in Section::ALL {
                            li {
                                a href=(section.path()) aria-current=[(section == self.section).then_some("page")] { (section.title()) }
                            }
                        }
                    }
                }
                div class="who" {
                    span class="muted" title="The key that you logged in with" { (visitor.caller.name) " · " (visitor.role()) }
                    button type="button" class="plain" data-theme-toggle hidden aria-label="Switch between dark and light" { "◐" }
                    form method="post" action="/admin/logout" { button class="plain" { "Log out" } }
                }
            }
            main id="main" tabindex="-1" {
                div class="title" {
                    h1 { (self.title) }
                    @if is_live { span class="pulse" data-live-state role="status" { } }
                }
                @if let Some(note) = &visitor.note { p class="note" role="status" { (note) } }
                (self.before)
                @if is_live { div id="live" data-live { (self.live) } }
                (self.after)
            }
        };
        answer::html(StatusCode::OK, document(&self.title, &body, true))
    }
}

/// A page for who is not logged in, or for whom there is none.
pub(super) fn bare(title: &str, body: &Markup) -> Markup {
    document(title, &html! { main id="main" class="bare" { (body) } }, false)
}

/// Why there is no page, and the way back.
pub(super) fn refusal(title: &str, detail: &str) -> Markup {
    html! {
        h1 { (title) }
        p { (detail) }
        p { a href="/admin/overview" { "To the overview" } }
    }
}

fn document(title: &str, body: &Markup, with_keys: bool) -> Markup {
    html! {
        (DOCTYPE)
        html lang="en" {
            head {
                meta charset="utf-8";
                meta name="viewport" content="width=device-width, initial-scale=1";
                meta name="color-scheme" content="light dark";
                title { (title) " · Chartgate" }
                link rel="icon" type="image/svg+xml" href=(*ICON_PATH);
                link rel="stylesheet" href=(*STYLE_PATH);
                script src=(*SCRIPT_PATH) defer {}
            }
            body data-keys[with_keys] { (body) }
        }
    }
}
