"""HTTP: JSON for programs under /api, pages for people, the technician's form. Routes translate; rules live
elsewhere."""
