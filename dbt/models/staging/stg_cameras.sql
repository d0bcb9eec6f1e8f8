-- Cameras that anything was ever recorded with, each with its site and that site's time zone.
select cameras.camera_id::text as camera_id, cameras.site_id, sites.time_zone
from {{ source('cv', 'cameras') }} as cameras
join {{ source('cv', 'sites') }} as sites using (site_id)
