//! The page as a `tower` service: for axum, and for all that runs on hyper.

use std::convert::Infallible;
use std::future::{Ready, ready};
use std::task::{Context, Poll};

use http::header::{HeaderName, HeaderValue};
use http::{Request, Response, StatusCode};
use tower_service::Service;

use super::StatusPage;

impl<B> Service<Request<B>> for StatusPage {
    type Response = Response<String>;
    type Error = Infallible;
    type Future = Ready<Result<Self::Response, Infallible>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<B>) -> Self::Future {
        let resource = self.respond(request.method().as_str(), request.uri().query());
        let mut response = Response::new(resource.body);
        *response.status_mut() = StatusCode::from_u16(resource.status).unwrap_or_default();
        response
            .headers_mut()
            .extend(resource.headers.map(|(name, value)| {
                let (name, value) = (
                    HeaderName::from_static(name),
                    HeaderValue::from_static(value),
                );
                (name, value)
            }));
        ready(Ok(response))
    }
}
