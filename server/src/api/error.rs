//! Errors of the API: the wire's, with a status that fits.

use axum::{
    Json,
    extract::rejection::{JsonRejection, PathRejection, QueryRejection},
    http::StatusCode,
    response::{IntoResponse, Response},
};
use riptrace_common::wire::message::{Error, ErrorCode};

use crate::{audit::AuditError, store::StoreError};

/// An error as it is answered.
#[derive(Debug)]
pub(super) struct Refused {
    status: StatusCode,
    error: Error,
}

impl Refused {
    pub(super) fn new(code: ErrorCode, text: impl Into<String>) -> Self {
        Error::new(code, text).into()
    }

    pub(super) fn with_status(status: StatusCode, code: ErrorCode, text: impl Into<String>) -> Self {
        Self { status, error: Error::new(code, text) }
    }

    pub(super) fn text(&self) -> &str {
        &self.error.text
    }
}

impl From<Error> for Refused {
    fn from(error: Error) -> Self {
        let status = match error.code {
            ErrorCode::BadRequest | ErrorCode::UnsupportedVersion => StatusCode::BAD_REQUEST,
            ErrorCode::NotFound => StatusCode::NOT_FOUND,
            ErrorCode::Unbound => StatusCode::UNPROCESSABLE_ENTITY,
            ErrorCode::NotReady | ErrorCode::Unreachable => StatusCode::SERVICE_UNAVAILABLE,
            ErrorCode::Forbidden => StatusCode::FORBIDDEN,
            ErrorCode::Limit => StatusCode::TOO_MANY_REQUESTS,
            ErrorCode::Conflict => StatusCode::CONFLICT,
            ErrorCode::Failed => StatusCode::INTERNAL_SERVER_ERROR,
        };
        Self { status, error }
    }
}

impl From<StoreError> for Refused {
    fn from(error: StoreError) -> Self {
        let code = if matches!(error, StoreError::Cursor { .. }) {
            ErrorCode::BadRequest
        } else {
            ErrorCode::Failed
        };
        Self::new(code, error.to_string())
    }
}

impl From<AuditError> for Refused {
    fn from(error: AuditError) -> Self {
        Self::new(ErrorCode::Failed, error.to_string())
    }
}

impl From<JsonRejection> for Refused {
    fn from(rejection: JsonRejection) -> Self {
        Self::with_status(rejection.status(), ErrorCode::BadRequest, rejection.body_text())
    }
}

impl From<QueryRejection> for Refused {
    fn from(rejection: QueryRejection) -> Self {
        Self::with_status(rejection.status(), ErrorCode::BadRequest, rejection.body_text())
    }
}

impl From<PathRejection> for Refused {
    fn from(rejection: PathRejection) -> Self {
        Self::with_status(rejection.status(), ErrorCode::BadRequest, rejection.body_text())
    }
}

impl IntoResponse for Refused {
    fn into_response(self) -> Response {
        let mut response = (self.status, Json(self.error)).into_response();
        if self.status == StatusCode::UNAUTHORIZED {
            let scheme = axum::http::HeaderValue::from_static("Bearer");
            response.headers_mut().insert(axum::http::header::WWW_AUTHENTICATE, scheme);
        }
        response
    }
}
