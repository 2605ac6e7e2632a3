//! A login page.

use axum::Router;
use axum::extract::{Form, State};
use axum::http::StatusCode;
use axum::response::{Html, IntoResponse, Redirect, Response};
use axum::routing::{get, post};
use serde::Deserialize;
use tower_sessions::session::Error;
use tower_sessions::{Expiry, Session, SessionManagerLayer, SessionStore};

/// How long a session lasts after the last page.
const INACTIVITY: time::Duration = time::Duration::minutes(10);

/// The keys of a session's data.
const USER: &str = "user";
const PAGES: &str = "pages";

/// The page, on any session store, for one account: `demo`, with this password. An application
/// compares with the hashes of its users' passwords instead.
///
/// The cookie is also sent without TLS, because this example has none: behind TLS, remove
/// `with_secure`.
pub fn routes(store: impl SessionStore + Clone, password: &'static str) -> Router {
    let sessions = SessionManagerLayer::new(store)
        .with_expiry(Expiry::OnInactivity(INACTIVITY))
        .with_secure(false);
    Router::new()
        .route("/", get(home))
        .route("/login", post(log_in))
        .route("/logout", post(log_out))
        .layer(sessions)
        .with_state(password)
}

async fn home(session: Session) -> Result<Html<String>, Failure> {
    let Some(user) = session.get::<String>(USER).await? else {
        return Ok(login_page(""));
    };
    let pages = session.get::<u32>(PAGES).await?.unwrap_or_default() + 1;
    // A change: the session is saved, and expires later.
    session.insert(PAGES, pages).await?;
    // The name is one of the application's accounts. Escape what users choose.
    Ok(page(&format!(
        r#"<p>You are logged in as <b id="user">{user}</b>.</p>
<p>Pages in this session: <span id="pages">{pages}</span>.</p>
<form method="post" action="/logout"><button id="logout">Log out</button></form>"#
    )))
}

#[derive(Deserialize)]
struct Login {
    user: String,
    password: String,
}

async fn log_in(
    State(password): State<&'static str>,
    session: Session,
    Form(login): Form<Login>,
) -> Result<Response, Failure> {
    if login.user != "demo" || login.password != password {
        let page = login_page("Wrong name or password.");
        return Ok((StatusCode::UNAUTHORIZED, page).into_response());
    }
    // A new id, so that one that an attacker has planted is worth nothing.
    session.cycle_id().await?;
    session.insert(USER, login.user).await?;
    Ok(Redirect::to("/").into_response())
}

async fn log_out(session: Session) -> Result<Redirect, Failure> {
    session.flush().await?;
    Ok(Redirect::to("/"))
}

/// An error of the session store. Its details are only in the log.
struct Failure(Error);

impl From<Error> for Failure {
    fn from(error: Error) -> Self {
        Self(error)
    }
}

impl IntoResponse for Failure {
    fn into_response(self) -> Response {
        eprintln!("a session failed: {}", self.0);
        let text = "Sessions are not available. Try again.\n";
        (StatusCode::SERVICE_UNAVAILABLE, text).into_response()
    }
}

fn login_page(message: &str) -> Html<String> {
    page(&format!(
        r#"<form method="post" action="/login">
<p><label>Name <input name="user" id="name" value="demo" autocomplete="username"></label></p>
<p><label>Password <input name="password" id="password" type="password"></label></p>
<p><button id="login">Log in</button> <span id="message">{message}</span></p>
</form>"#
    ))
}

fn page(body: &str) -> Html<String> {
    Html(format!(
        r#"<!DOCTYPE html>
<html lang="en"><meta charset="utf-8"><meta name="viewport" content="width=device-width"><title>Sessions</title>
<style>
body {{ font: 16px system-ui, sans-serif; max-width: 24em; margin: 4em auto; color: #222 }}
label {{ display: flex; justify-content: space-between; gap: 1em }}
input, button {{ font: inherit; padding: .3em .6em }}
#message {{ color: #b00020 }}
</style>
<h1>Sessions</h1>
{body}
</html>"#
    ))
}
