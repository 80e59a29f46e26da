//! Planning before there is a kernel side: it loads meanwhile, on another thread.

use super::{Image, ImageId, KnownImage, PlanFailure, PlannedLocation, Wanted, planning};
use crate::plan::types::TypeRegistry;

/// Binaries, and what the kernel side will be told of their types. [`super::Tracer::start`] takes it over.
#[derive(Debug, Default)]
pub struct Planner {
    pub(super) registry: TypeRegistry,
    pub(super) images: Vec<KnownImage>,
}

impl Planner {
    /// Takes a binary.
    pub fn add_image(&mut self, image: Image) -> ImageId {
        // The kernel side gives indexes in this order; whether it has room for them all shows when it is there.
        let index = u32::try_from(self.images.len()).unwrap_or(u32::MAX);
        self.images.push(KnownImage { image, index });
        ImageId(self.images.len() - 1)
    }

    /// Plans a location: where it is armed and what is captured there.
    ///
    /// # Errors
    ///
    /// The location can't be bound, or an expression names nothing.
    pub fn plan(&mut self, image: ImageId, wanted: &Wanted) -> Result<PlannedLocation, PlanFailure> {
        let Self { registry, images } = self;
        let known = images.get(image.0).ok_or(PlanFailure::UnknownImage)?;
        planning::plan(registry, &known.image, known.index, wanted)
    }
}
