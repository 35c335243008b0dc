//! `POST /v1/feedback/photos` and `GET /v1/feedback/{id}/photo`.

use std::time::Duration;

use bytes::Bytes;
use hyper::Response;
use hyper::header::{HeaderValue, X_CONTENT_TYPE_OPTIONS};

use super::officers::{audited, found};
use super::{broken, content_type, record, unreadable, within_rate};
use crate::openapi::feedback as api;
use crate::respond::{self, Cause, Refused};
use crate::services::Services;
use crate::services::ask::Ask;
use crate::services::capability::Effect;
use crate::services::feedback::album::AlbumError;
use crate::services::feedback::event::Told;
use crate::services::feedback::photo::{self, Kind, PIXELS_MAX, PhotoError};
use crate::verify::admin_token::AdminScope;

/// How long a photo may wait for its turn.
const TURN: Duration = Duration::from_secs(5);

/// Takes a photo, which feedback has to name within an hour.
pub(super) async fn take(services: &Services, ask: &Ask) -> Result<Response<Bytes>, Refused> {
    let feedback = &services.capabilities.feedback;
    let kind = match content_type(ask).to_ascii_lowercase().as_str() {
        "image/jpeg" => Kind::Jpeg,
        "image/png" => Kind::Png,
        _ => {
            let detail = "Content-Type must be image/jpeg or image/png";
            return Err(Refused::new(Cause::UnsupportedMediaType, detail).field("content-type"));
        }
    };
    within_rate(services, ask)?;
    let turn = std::sync::Arc::clone(&feedback.decoders).acquire_owned();
    let Ok(Ok(turn)) = tokio::time::timeout(TURN, turn).await else {
        let refused = Refused::new(Cause::Unavailable, "too many photos at once; nothing was kept");
        return Err(refused.bound("feedback.photos_at_once").retry_after(5));
    };
    let sent = ask.body.clone();
    // A panic in a decoder ends its thread's work and nothing else, and the turn is given back either way.
    let decoded = tokio::task::spawn_blocking(move || {
        let _turn = turn;
        photo::kept(&sent, kind)
    });
    let kept = decoded.await.unwrap_or(Err(PhotoError::Malformed)).map_err(refused)?;

    let _naming = feedback.album.naming.lock().await;
    let (writer, bytes) = (std::sync::Arc::clone(feedback), kept.len() as u64);
    let written = tokio::task::spawn_blocking(move || writer.album.put(&kept)).await;
    let id = written.map_err(|_| broken())?.map_err(not_written)?;
    match record(services, ask, &Told::Photo { id: id.clone(), bytes }).await? {
        Effect::Refused(refused) => Err(refused),
        Effect::Created(_) | Effect::Done(_) => {
            Ok(respond::created(&api::FeedbackPhoto { photo: id, bytes }))
        }
    }
}

/// Shows an officer a photo.
pub(super) async fn show(services: &Services, ask: &Ask, id: &str) -> Result<Response<Bytes>, Refused> {
    let caller = ask.officer(&*services.host, AdminScope::Services)?;
    let item = found(services, id)?;
    let Some(photo) = item.photo else {
        return Err(Refused::new(Cause::NotFound, "this feedback has no photo"));
    };
    audited(services, ask, &caller, &item.id).await?;
    let reader = std::sync::Arc::clone(&services.capabilities.feedback);
    let read = tokio::task::spawn_blocking(move || reader.album.get(&photo)).await.map_err(|_| broken())?;
    let path = || "services/photos".into();
    let read = read.map_err(|source| {
        unreadable(crate::services::capability::StateError::File { path: path(), source })
    })?;
    let mut response = respond::ok("image/jpeg", read);
    response.headers_mut().insert(X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    Ok(response)
}

fn refused(error: PhotoError) -> Refused {
    match error {
        PhotoError::Pixels(pixels) => {
            Refused::new(Cause::TooLarge, error.to_string()).field("body").limit(PIXELS_MAX, Some(pixels))
        }
        PhotoError::Malformed => Refused::new(Cause::Invalid, error.to_string()).field("body"),
    }
}

fn not_written(error: AlbumError) -> Refused {
    match error {
        AlbumError::Full { bytes } => {
            let refused = Refused::new(Cause::Unavailable, "there is no room for another photo");
            refused.bound("feedback.photos_bytes_max").limit(bytes, None).retry_after(3_600)
        }
        AlbumError::Disk(_) => {
            tracing::error!(error = %anyhow::Error::from(error), "a photo can't be kept");
            let refused = Refused::new(Cause::Unavailable, "the photo can't be written; nothing was kept");
            refused.bound("services.disk").retry_after(30)
        }
    }
}
