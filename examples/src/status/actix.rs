//! The page as a handler of actix-web.

use std::future::{Ready, ready};

use actix_web::http::StatusCode;
use actix_web::{Handler, HttpRequest, HttpResponse};

use super::StatusPage;

impl Handler<HttpRequest> for StatusPage {
    type Output = HttpResponse;
    type Future = Ready<HttpResponse>;

    fn call(&self, request: HttpRequest) -> Self::Future {
        let query = request.uri().query();
        let resource = self.respond(request.method().as_str(), query);
        let status = StatusCode::from_u16(resource.status).unwrap_or_default();
        let mut response = HttpResponse::build(status);
        for header in resource.headers {
            response.insert_header(header);
        }
        ready(response.body(resource.body))
    }
}
